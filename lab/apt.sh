# shellcheck shell=bash
# An apt of the lab's own: other suites than the machine's, lists and archives in the cache, no root.
# Sourced by fetch and peers. The mirror is the machine's, or $UBLK_LAB_MIRROR.

cache=${UBLK_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ublk-lab}
PATH=$PATH:/usr/sbin:/sbin

lab_apt() { # COMMAND ARG…: apt-get or apt-cache
	local command=$1
	shift
	"$command" -c "$cache/apt/conf" "$@"
}

# lab_mirrors: "URI SUITE" lines, for the suites that have kernels.
lab_mirrors() {
	local main=${UBLK_LAB_MIRROR-} security=
	if [[ ! $main ]]; then
		while read -r codename uri; do
			case $codename in
			*-security) security=$uri ;;
			*-updates | *-backports | *-proposed*) ;;
			*) main=${main:-$uri} ;;
			esac
		done < <(apt-get indextargets --format "\$(CODENAME) \$(REPO_URI)" 'Created-By: Packages' 'Origin: Debian')
	fi
	[[ $main ]] || { echo 'lab: no Debian mirror in the apt configuration; set UBLK_LAB_MIRROR' >&2 && return 1; }
	echo "$main trixie trixie-backports"
	if [[ $security ]]; then echo "$security trixie-security"; fi
}

# lab_apt_update [FORCE]: fetches the lists, once, or again with FORCE.
lab_apt_update() {
	local apt=$cache/apt
	if [[ -e $apt/updated && ! ${1-} ]]; then return; fi
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
	local uri suites
	while read -r uri suites; do
		printf '%s\n' 'Types: deb' "URIs: $uri" "Suites: $suites" 'Components: main' \
			'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' ''
	done < <(lab_mirrors) >"$apt/lab.sources"
	lab_apt apt-get -qq update >&2
	touch "$apt/updated"
}
