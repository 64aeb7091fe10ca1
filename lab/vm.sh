# shellcheck shell=bash disable=SC2054,SC2154 # QEMU's options have commas; run defines the parameters
# The virtual machine of one lab/run. Sourced by it; its options are this file's parameters: kernel (a folder from
# fetch), cpus, memory, results, append, timeout, tty, systemd, icount, work (the run's temporary folder).

boot_limit=90 # seconds from power-on to init, on a slow machine
vm='' feeder='' watchdog='' shares=() terminal='' sudo=()
if ((EUID)); then sudo=(sudo); fi

# vm_accelerator: KVM only where it can run a stock kernel; a /dev/kvm without the CPU flag cannot.
vm_accelerator() {
	if [[ $icount ]]; then
		# erms: one instruction would copy any number of bytes.
		accelerator=(-accel tcg,thread=single -icount shift=0,sleep=off -cpu max,-erms)
		cpus=1
	elif [[ -r /dev/kvm && -w /dev/kvm ]] && grep -qwE 'vmx|svm' /proc/cpuinfo; then
		accelerator=(-accel kvm -cpu host)
	elif [[ $kernel == */6.12.* ]]; then
		# 6.12 dies (double fault) after cmpxchg16b under emulation.
		accelerator=(-accel tcg,thread=multi -cpu max,-cx16)
	else
		accelerator=(-accel tcg,thread=multi -cpu max)
	fi
}

# vm_share TAG DIR MODE CACHE: serves DIR to the guest at the socket $work/TAG.sock; MODE is ro or rw.
# The server ends by itself with the VM. The Rust virtiofsd (from Debian 13) and the C one have different options.
vm_share() {
	local tag=$1 dir=$2 mode=$3 cache=$4 daemon=/usr/libexec/virtiofsd options
	if [[ -x $daemon ]]; then
		options=("--shared-dir=$work/$tag" "--cache=$cache" --log-level=error)
	else
		daemon=/usr/lib/qemu/virtiofsd
		options=(-o "source=$work/$tag,cache=$cache,log_level=err")
	fi
	rm -f "$work/$tag.sock"
	mkdir -p "$work/$tag"
	"${sudo[@]}" setpriv --pdeathsig TERM unshare --mount --propagation slave \
		"$here/share" "$dir" "$work/$tag" "$mode" \
		"$daemon" --socket-path="$work/$tag.sock" --socket-group="$(id -gn)" "${options[@]}" \
		</dev/null >>"$work/virtiofsd.log" 2>&1 &
	shares+=($!)
}

# vm_await_shares: until both sockets are there; fails when a server ended instead.
vm_await_shares() {
	until [[ -S $work/root.sock && -S $work/results.sock ]]; do
		if ! kill -0 "${shares[@]}" 2>/dev/null; then
			cat "$work/virtiofsd.log" >&2
			echo 'lab/run: virtiofsd ended' >&2
			exit 125
		fi
		sleep 0.02
	done
}

# vm_relay FILE FD: copies what the guest writes to FILE until the VM has ended and all is copied; when FD's reader
# goes away, so does the VM, and the relay fails. A file in between, not a pipe: QEMU never has to wait for us, so nothing is lost at the end.
vm_relay() {
	: >"$1"
	(
		tail -q -c +1 -s 0.05 --pid="$vm" -f "$1" >&"$2" && exit
		kill "$vm" 2>/dev/null
		exit 141
	) &
	relays+=($!)
}

# vm_watch: ends a VM that hangs before init says hello.
vm_watch() {
	(
		read -rt "$boot_limit" <>"$work/never" || [[ -e $results/status ]] || kill "$vm"
	) >/dev/null 2>&1 &
	watchdog=$!
}

# vm_boot: one boot, to its end. $results/status is there afterwards when init got to say hello; vm_status is QEMU's.
vm_boot() {
	local accelerator relays=() qemu
	local arguments="console=ttyS0 loglevel=5 panic=-1 tsc=reliable mitigations=off"
	arguments+=" root=root rootfstype=virtiofs ro init=$work/init ublk_lab=$work $append"
	# Walks of the whole disk, and the network.
	arguments+="${systemd:+ systemd.mask=systemd-tmpfiles-setup.service systemd.mask=systemd-timesyncd.service}"
	vm_accelerator
	shares=()
	vm_share root / ro always
	vm_share results "$results" rw auto
	qemu=(
		qemu-system-x86_64 -machine q35 "${accelerator[@]}" -smp "$cpus" -m "$memory"
		-object "memory-backend-memfd,id=memory,share=on,size=${memory}M" -numa node,memdev=memory
		-nodefaults -no-user-config -display none -no-reboot
		-kernel "$kernel/vmlinuz" -append "$arguments"
		-chardev "socket,id=root,path=$work/root.sock" -device vhost-user-fs-pci,chardev=root,tag=root
		-chardev "socket,id=results,path=$work/results.sock" -device vhost-user-fs-pci,chardev=results,tag=results
		-chardev "file,id=console,path=$results/console.log" -serial chardev:console
		-device virtio-serial-pci -chardev stdio,id=in,signal=off
	)
	if [[ $tty ]]; then
		qemu+=(-device virtconsole,chardev=in)
	else
		qemu+=(
			-device virtserialport,nr=1,chardev=in
			-chardev "file,id=out,path=$work/out" -device virtserialport,nr=2,chardev=out
			-chardev "file,id=err,path=$work/err" -device virtserialport,nr=3,chardev=err
		)
	fi
	rm -f "$results/status"
	vm_await_shares
	if [[ $tty ]]; then
		setpriv --pdeathsig TERM timeout --foreground -k 5 "${timeout:-0}" "${qemu[@]}" <&0 2>"$work/qemu.log" &
		vm=$!
	else
		setpriv --pdeathsig TERM timeout --foreground -k 5 "${timeout:-0}" "${qemu[@]}" \
			<&"$input" >/dev/null 2>"$work/qemu.log" &
		vm=$!
		vm_relay "$work/out" 1
		vm_relay "$work/err" 2
	fi
	vm_watch
	vm_status=0
	wait "$vm" || vm_status=$?
	vm=''
	kill "$watchdog" 2>/dev/null || true
	wait "${shares[@]}" || true
	local relay
	for relay in "${relays[@]}"; do wait "$relay" || exit; done
}

# vm_run: boots until a guest got as far as init (emulated kernels panic once in a while before), never again after
# that, and exits with the command's status.
vm_run() {
	local input status=''
	if [[ $tty ]]; then
		terminal=$(stty -g)
		stty raw -echo
	else
		exec {input}< <(exec cat <&3)
		feeder=$!
	fi 3<&0
	for _ in 1 2 3 4 5; do
		vm_boot
		if [[ -e $results/status ]] || ((vm_status == 124)); then break; fi
	done
	if ((vm_status == 124)); then exit 124; fi
	if [[ -e $results/status ]]; then read -r status <"$results/status" || true; fi
	if [[ $status =~ ^[0-9]+$ ]]; then exit "$status"; fi
	{
		tail -q -n 40 "$results/console.log" "$work/qemu.log" || true
		echo 'lab/run: the guest ended without a status'
	} >&2
	exit 125
}

# vm_cleanup leaves no process and no file behind.
vm_cleanup() {
	trap '' HUP INT QUIT TERM
	if [[ $terminal ]]; then stty "$terminal" || true; fi
	kill ${vm:+"$vm"} ${feeder:+"$feeder"} ${watchdog:+"$watchdog"} "${shares[@]}" 2>/dev/null || true
	wait ${vm:+"$vm"} "${shares[@]}" || true
	"${sudo[@]}" rm -rf --one-file-system "$work"
}
