# SPDX-License-Identifier: Apache-2.0
# What a person types. The rules of the build are Package.swift's; this file only names them.

SWIFT ?= swift
CC = cc
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
DESTDIR ?=
# The version that installs and runs the service; packages name the one that they are for.
SYSTEMD_VERSION ?= $(shell systemctl --version 2>/dev/null | awk 'NR == 1 { print $$2 + 0 }')
BUILD ?= .build

# The number behind .so is raised when programs have to be linked anew; Package.swift and exports.map have it, too.
LIBRARY_VERSION := 0.1.0
RELEASE := $(CURDIR)/$(BUILD)/release
PEERS := $(BUILD)/peers
PEER_PROGRAMS := $(patsubst Sources/relay-bench/Peers/%.c,$(PEERS)/%,$(wildcard Sources/relay-bench/Peers/*.c))
# librelay.so, relayd and relayctl of the release with which this one has to get on.
PREVIOUS := $(BUILD)/previous
# What make bench compares librelay.so with: any other build of it.
AGAINST ?= $(wildcard $(PREVIOUS)/librelay.so)
# The suites that open a real /dev/cuse; everything else runs natively.
CUSE_SUITES := EndToEnd|DeviceHostTests.*Cuse
# Those that need several CPUs, which come and go, or memory control groups.
CPU_SUITES := CPUTests|SeveralCPUsTests|MemoryGroupTests

.DEFAULT_GOAL := help
.PHONY: help deps build previous test test-build test-cuse test-systemd test-cpus test-native \
  stress fuzz model demo bench bench-smoke bench-deps lint format install install-library clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

deps: ## install the Debian packages that are missing
	@.ci/deps binutils busybox-static fuse3 g++ gcc git kmod less libc6-dev libfuse3-dev mawk \
	  netcat-openbsd nodejs pkg-config procps pv python3 qemu-system-x86 rsync rust-coreutils socat \
	  systemd tcpdump udev user-mode-linux util-linux valgrind zstd

bench-deps: deps ## install what the benchmark compares with (LTTng-UST)
	@.ci/deps lttng-tools liblttng-ust-dev

# DWARF 4, as Swift's own: valgrind 3.19 gives up where a library has the 5 of clang beside it.
build: ## build relayd, relayctl, librelay.so and the tools for release
	@command -v $(SWIFT) >/dev/null || { echo "no '$(SWIFT)': see https://swift.org/install" >&2; exit 1; }
	$(SWIFT) build --scratch-path $(BUILD) -c release --static-swift-stdlib -Xcc -gdwarf-4

previous: ## build the previous release's programs, which this one's have to get on with
	@.ci/part previous .ci/previous '$(PREVIOUS)'

# Each part is timed (.ci/budget). The slow guest has one CPU; what else is not disturbed by company
# runs beside it, and each part's output comes in one piece when the part ends. The native tests run
# alone and come last, so that the test runner's closing line is the last one.
test: deps ## run all tests: on real CUSE, under systemd, on four CPUs (in guests), then natively
	@.ci/part release-build $(MAKE) build
	@.ci/part debug-build $(MAKE) test-build
	@echo "two at a time: the tests in guests, and the previous release's build"
	@$(MAKE) -j2 --output-sync=target test-cuse previous test-systemd test-cpus
	@$(MAKE) bench-smoke
	@$(MAKE) test-native

test-build:
	$(SWIFT) build --scratch-path $(BUILD) --build-tests

# One test at a time in the guests: a child that one test starts holds, until its exec, the /dev/cuse
# that another one closes. The make that some tests run knows nothing of this one's jobs.
GUEST_TESTS = $(BUILD)/debug/relaydPackageTests.xctest --testing-library swift-testing --no-parallel
test-cuse:
	MAKEFLAGS= RELAY_BIN=$(RELEASE) RELAY_TEST_BACKEND=cuse .ci/part cuse-guest \
	  Tests/VM/with-cuse --timeout 3600 $(GUEST_TESTS) --filter '$(CUSE_SUITES)'

test-systemd:
	MAKEFLAGS= RELAY_BIN=$(RELEASE) RELAY_TEST_BACKEND=cuse RELAY_TEST_SYSTEMD=1 .ci/part systemd-guest \
	  Tests/VM/with-systemd $(GUEST_TESTS) --filter ServiceTests

test-cpus:
	MAKEFLAGS= RELAY_BIN=$(RELEASE) RELAY_TEST_BACKEND=cuse RELAY_TEST_CPUS=4 .ci/part cpu-guest \
	  Tests/VM/with-cpus $(GUEST_TESTS) --filter '$(CPU_SUITES)'

test-native:
	RELAY_BIN=$(RELEASE) RELAY_TEST_BACKEND=fuse RELAY_PREVIOUS=$(abspath $(PREVIOUS)) .ci/part native \
	  $(SWIFT) test --scratch-path $(BUILD) --skip-build --disable-xctest

# What the tests do for a second or two, for a minute or two.
stress: deps build ## kill writers by the ten thousand, let some spoil their memory for a minute, let users storm
	$(SWIFT) build --scratch-path $(BUILD) --build-tests
	RELAY_STRESS=1 RELAY_BIN=$(RELEASE) RELAY_TEST_BACKEND=fuse $(SWIFT) test --scratch-path $(BUILD) \
	  --skip-build --disable-xctest --filter 'StressTests|ScribblerTests|StormTests'

# Seconds for each target. Inputs that reach something new are kept for the next run.
FUZZ_SECONDS ?= 60
fuzz: deps ## feed the memory, what is left of it, the control socket and the configuration with what libFuzzer makes up
	RELAY_FUZZER=1 $(SWIFT) build --scratch-path $(BUILD)/fuzz -c release \
	  -Xswiftc -sanitize=fuzzer -Xswiftc -use-ld=lld --product relay-fuzz
	@for target in ring state control configuration; do \
	  mkdir -p $(BUILD)/fuzz/found $(BUILD)/fuzz/inputs/$$target; \
	  echo "fuzz $$target for $(FUZZ_SECONDS) s"; \
	  SWIFT_BACKTRACE=enable=no $(BUILD)/fuzz/release/relay-fuzz $$target \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=1024 -timeout=10 -print_final_stats=1 -verbosity=0 \
	    -artifact_prefix=$(BUILD)/fuzz/found/$$target- \
	    $(BUILD)/fuzz/inputs/$$target Tests/Fuzz/Cases/$$target || { \
	    echo "make fuzz: the input is $(BUILD)/fuzz/found/$$target-*; to have every test run feed it" \
	      "again, move it to Tests/Fuzz/Cases/$$target under a name that says what it does" >&2; \
	    exit 1; }; \
	done

model: build ## visit every state of small worlds of the ring's rules, and break each rule once
	$(RELEASE)/relay-model

demo: deps build ## watch real input go through /dev/relay*
	RELAY_BIN=$(RELEASE) Tests/demo

bench: build $(PEER_PROGRAMS) ## measure, against peers in the same run, and librelay.so against AGAINST
	@[ -n '$(AGAINST)' ] || echo "librelay.so is compared with no other: make previous, or AGAINST=FILE"
	RELAY_PEERS=$(CURDIR)/$(PEERS) $(RELEASE)/relay-bench write read \
	  $(if $(AGAINST),--against '$(AGAINST)') --json $(BUILD)/bench.json

bench-smoke: $(RELEASE)/relay-bench $(PEER_PROGRAMS) ## show in seconds that the benchmark works
	@.ci/part bench-smoke Tests/Bench/smoke $(RELEASE) $(PEERS)

$(PEERS)/lttng_writer: Sources/relay-bench/Peers/lttng_provider.h

# A peer whose library is not installed is left out; relay-bench says so.
$(PEERS)/%: Sources/relay-bench/Peers/%.c
	@mkdir -p $(@D)
	@case $* in lttng*) package=lttng-ust ;; *) package=fuse3 ;; esac; \
	if pkg-config --exists $$package; then \
	  set -x; $(CC) -std=gnu11 -O2 -Wall -Wextra -I$(<D) -o $@ $< $$(pkg-config --cflags --libs $$package) -lpthread; \
	else \
	  echo "$*: no $$package here (make bench-deps)"; \
	fi

lint: ## check format, scripts and house rules
	@status=0; for check in '$(SWIFT) format lint -s -r -p Sources Tests Package.swift' \
	  Tests/Lint/scripts Tests/Lint/tidy Tests/Lint/tidy-test Tests/Lint/gate-test; do \
	  echo "$$check"; $$check || status=1; \
	done; exit $$status

format: ## format the Swift sources in place
	$(SWIFT) format -i -r -p Sources Tests Package.swift

# Builds only what was never built, so that `sudo make install` leaves no root-owned build.
$(RELEASE)/relayd $(RELEASE)/relayctl $(RELEASE)/librelay.so $(RELEASE)/relay-bench:
	$(MAKE) build

install: $(RELEASE)/relayd $(RELEASE)/relayctl install-library ## install under DESTDIR/PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 755 $(RELEASE)/relayd $(RELEASE)/relayctl $(DESTDIR)$(PREFIX)/bin
	sed 's|^\(Exec[A-Za-z]*=[-@:+!]*\)/usr/local/bin/|\1$(PREFIX)/bin/|' \
	  systemd/relayd.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/relayd.service
	chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/relayd.service
	[ '$(or $(SYSTEMD_VERSION),0)' -lt 254 ] || install -D -m 644 systemd/systemd-254.conf \
	  $(DESTDIR)$(PREFIX)/lib/systemd/system/relayd.service.d/systemd-254.conf
	install -D -m 755 systemd/relayd-node $(DESTDIR)$(PREFIX)/lib/relayd/relayd-node
	install -d $(DESTDIR)$(PREFIX)/lib/udev/rules.d
	sed 's|/usr/lib/relayd|$(PREFIX)/lib/relayd|' systemd/60-relayd.rules \
	  >$(DESTDIR)$(PREFIX)/lib/udev/rules.d/60-relayd.rules
	chmod 644 $(DESTDIR)$(PREFIX)/lib/udev/rules.d/60-relayd.rules
	install -D -m 644 systemd/relayd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/relayd.conf
	install -D -m 644 Sources/Support/relayd.toml \
	  $(DESTDIR)$(PREFIX)/share/doc/relayd/examples/relayd.toml
	for page in Sources/Support/man/*; do \
	  install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}; \
	done

# As a development package has it, with its debugging information, and what valgrind is to leave out.
install-library: $(RELEASE)/librelay.so ## install librelay.so, its headers and relay.pc under DESTDIR/PREFIX
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 644 $(RELEASE)/librelay.so $(DESTDIR)$(LIBDIR)/librelay.so.$(LIBRARY_VERSION)
	ln -sf librelay.so.$(LIBRARY_VERSION) $(DESTDIR)$(LIBDIR)/librelay.so.$(firstword $(subst ., ,$(LIBRARY_VERSION)))
	ln -sf librelay.so.$(LIBRARY_VERSION) $(DESTDIR)$(LIBDIR)/librelay.so
	install -D -m 644 Sources/CRelay/include/relay.h $(DESTDIR)$(PREFIX)/include/relay.h
	install -m 644 Sources/CRelay/include/relay_map.h $(DESTDIR)$(PREFIX)/include
	install -m 644 Sources/CRelayIoctl/include/relay_ioctl.h $(DESTDIR)$(PREFIX)/include
	install -D -m 644 Sources/Support/relay.supp $(DESTDIR)$(PREFIX)/lib/valgrind/relay.supp
	sed 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@VERSION@|$(LIBRARY_VERSION)|' \
	  Sources/Support/relay.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/relay.pc
	chmod 644 $(DESTDIR)$(LIBDIR)/pkgconfig/relay.pc
	[ -n '$(DESTDIR)' ] || [ "$$(id -u)" != 0 ] || ldconfig

clean: ## remove everything that was built
	rm -rf $(BUILD)
