# Few targets; .ci/run calls the same ones. See CONTRIBUTING.md.
.POSIX:
SHELL = /bin/bash
GO = go
KERNELS = 6.12 newest
PREFIX = /usr/local

all: ublk

ublk: FORCE
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o $@ ./cmd/ublk

# A VM with a ublk kernel: devices, fio, list, top, a crash and its recovery.
demo: ublk
	lab/demo

# The pictures in docs/, from a run in a VM.
pictures: ublk
	lab/picture

# Unit tests, then the lab tests on two kernels.
test: lint unit lab-test

unit:
	$(GO) test ./...

lab-test:
	lab/test $(KERNELS)

# What takes longer than people wait: more kernels, more kills, -race.
test-long:
	$(GO) test -race ./...
	lab/test --long 6.12 6.16 newest

bench: ublk
	bench/run

# Formatting, vet, staticcheck, both architectures. (A unit test holds the generated files up to date.)
lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	GOARCH=arm64 CGO_ENABLED=0 $(GO) vet ./...

# Man pages and completions, from the commands themselves.
generate:
	$(GO) run ./cmd/gendocs

# After make: root's PATH often has no Go.
install:
	install -Dm755 ublk $(DESTDIR)$(PREFIX)/sbin/ublk
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/man/man8 man/*.8
	install -Dm644 completions/ublk.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/ublk
	install -Dm644 completions/_ublk $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_ublk
	install -Dm644 completions/ublk.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/ublk.fish
	install -Dm644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system packaging/ublk-watch.service packaging/ublk@.service
	install -Dm644 -t $(DESTDIR)$(PREFIX)/lib/udev/rules.d packaging/60-ublk.rules
	install -Dm755 -t $(DESTDIR)$(PREFIX)/libexec packaging/ublk-owner
	install -Dm644 packaging/ublk.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/ublk.conf
	sed -i -e 's|/usr/sbin/ublk|$(PREFIX)/sbin/ublk|g' -e 's|/usr/libexec/|$(PREFIX)/libexec/|g' $(addprefix $(DESTDIR)$(PREFIX)/,lib/systemd/system/ublk-watch.service \
		lib/systemd/system/ublk@.service lib/udev/rules.d/60-ublk.rules libexec/ublk-owner)

clean:
	rm -f ublk

FORCE:
.PHONY: all demo pictures test unit lab-test test-long bench lint generate install clean FORCE
