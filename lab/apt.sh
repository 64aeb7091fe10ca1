# shellcheck shell=bash
# An apt of the lab's own: other suites than the machine's, lists and archives in the cache, no root.
# Sourced by fetch and peers. The mirror is the machine's, or $UBLK_LAB_MIRROR.

cache=${UBLK_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ublk-lab}
PATH=$PATH:/usr/sbin:/sbin

lab_apt() { # COMMAND ARG…: apt-get or apt-cache, with the lists opened last
	local command=$1
	shift
	"$command" -c "$apt/conf" "$@"
}

# lab_mirrors: sets main and security to this machine's Debian mirrors; security may stay empty.
lab_mirrors() {
	local codename uri
	main=${UBLK_LAB_MIRROR-} security=
	if [[ $main ]]; then return; fi
	while read -r codename uri; do
		case $codename in
		*-security) security=$uri ;;
		*-updates | *-backports | *-proposed*) ;;
		*) main=${main:-$uri} ;;
		esac
	done < <(apt-get indextargets --format "\$(CODENAME) \$(REPO_URI)" 'Created-By: Packages' 'Origin: Debian')
	if [[ ! $main ]]; then
		echo 'lab: no Debian mirror in the apt configuration; set UBLK_LAB_MIRROR' >&2
		return 1
	fi
}

# lab_apt_open kernels|sid [FORCE]: the lists that lab_apt looks at, fetched once, or again with FORCE.
lab_apt_open() {
	local main security
	apt=$cache/apt/$1
	if [[ -e $apt/fetched && ! ${2-} ]]; then return; fi
	mkdir -p "$apt/lists/partial" "$apt/archives/partial"
	cat >"$apt/conf" <<-END
		Dir::State::lists "$apt/lists";
		Dir::State::status "/dev/null";
		Dir::Cache "$apt";
		Dir::Etc::sourcelist "$apt/lab.sources";
		Dir::Etc::sourceparts "/dev/null";
		APT::Architecture "amd64";
		APT::Architectures { "amd64"; };
		APT::Sandbox::User "root";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
	END
	lab_mirrors
	case $1 in
	kernels)
		lab_source "$main" trixie trixie-backports
		if [[ $security ]]; then lab_source "$security" trixie-security; fi
		;;
	sid) lab_source "$main" sid ;;
	esac >"$apt/lab.sources"
	lab_apt apt-get -qq update >&2
	touch "$apt/fetched"
}

lab_source() { # URI SUITE…
	printf '%s\n' 'Types: deb' "URIs: $1" "Suites: ${*:2}" 'Components: main' \
		'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' ''
}
