# Verbs for people. Each does its own set-up, so `make run` works on a fresh Debian 12 with cargo.
#
#   run         build everything and run a container in a VM    IMAGE=oci:path[:tag] CMD='sh -c ...'
#   build       build/bin/husk and build/guest/: what a user runs, from where it is
#   test        every test, end to end too
#   check       formatting, lints, licences of dependencies
#   bench       times and sizes, as a table and as JSON    ONLY=host, agent, devices or vmm
#   agent-test  the guest agent alone, in a VM of its own    CASE=name
#   fuzz        what agent and devices read from the other side, a minute for each target
#   kernel      the guest kernel (KERNEL_TARBALL=path KERNEL_SHA256=digest for another source)
#   rootfs      the guest image: kernel, initramfs, manifest
#   setup       install what is missing
#   clean       remove build/ and the target folder; the kernel stays in ~/.cache/husk

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := build
.PHONY: run build test check bench agent-test fuzz kernel rootfs setup clean host agent images inits

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/husk
# Compiled files live outside the checkout.
CARGO_TARGET_DIR ?= $(CACHE)/target
export CARGO_TARGET_DIR
CARGO_HOME ?= $(HOME)/.cargo

MUSL := x86_64-unknown-linux-musl
AGENT := $(CARGO_TARGET_DIR)/$(MUSL)/agent/husk-agent
# Two builds of the agent are the same wherever the checkout, its output and cargo's home are.
REMAP := --remap-path-prefix=$(CURDIR)=/husk --remap-path-prefix=$(CARGO_HOME)=/cargo \
    --remap-path-prefix=$(CARGO_TARGET_DIR)=/target
# Linked for a fixed address: a static PIE relocates itself at each start, which touches some 45 pages
# and is half of what an exec into a container takes. Heap, stack and mappings stay randomized.
FIXED := -C relocation-model=static
CARGO_GUEST := RUSTFLAGS="$(REMAP) $(FIXED)" cargo build --locked --profile agent --target $(MUSL)
# Guests without a kernel have no C library, and its start files with it.
CARGO_BARE := RUSTFLAGS="$(REMAP) $(FIXED) -C link-self-contained=no" cargo build --locked --profile agent \
    --target $(MUSL)

IMAGE ?= oci:build/images/busybox
CMD ?= echo "hello from a husk"

run: build images
	build/bin/husk run --rm $(IMAGE) $(CMD)

build: host rootfs

test: build images inits
	@HUSK_BIN=$(CURDIR)/build/bin/husk HUSK_GUEST_DIR=$(CURDIR)/build/guest \
	    HUSK_TEST_INITS=$(CURDIR)/build/test-inits scripts/test

check: setup
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --target $(MUSL) -p husk-agent -p husk-guest-inits --all-targets -- -D warnings
	cargo clippy --locked --target $(MUSL) --profile agent -p husk-bare-metal -- -D warnings
	@scripts/check-dependencies

bench: build images inits
	@scripts/setup --bench
	HUSK_TEST_INITS=$(CURDIR)/build/test-inits \
	cargo run --locked --release -p husk-tests --bin bench -- \
	    --inits build/test-inits --json build/bench.json $(if $(ONLY),--only $(ONLY))

agent-test: rootfs inits
	HUSK_TEST_INITS=$(CURDIR)/build/test-inits cargo test --locked -p husk-tests --test agent $(CASE)

fuzz: setup
	@scripts/fuzz

kernel: setup
	@kernel-config/build

rootfs: setup agent
	@kernel=$$(kernel-config/build); \
	cargo run --locked -q -p husk-rootfs-builder -- \
	    --agent $(AGENT) --kernel "$$kernel" --out build/guest

setup:
	@scripts/setup

clean:
	rm -rf build
	cargo clean

# Parts of the verbs above.

host: setup
	cargo build --locked --release -p husk
	@install -D -m 755 $(CARGO_TARGET_DIR)/release/husk build/bin/husk

agent: setup
	$(CARGO_GUEST) -p husk-agent

# Guests that are not the agent: the tests' liars, the floor that benches compare with, and what needs
# no kernel.
inits: setup
	$(CARGO_GUEST) -p husk-guest-inits
	@install -D -m 755 -t build/test-inits \
	    $(addprefix $(CARGO_TARGET_DIR)/$(MUSL)/agent/,floor-init vsock-init hostile-init devices-init probe)
	$(CARGO_BARE) -p husk-bare-metal
	@install -D -m 755 -t build/test-inits $(CARGO_TARGET_DIR)/$(MUSL)/agent/bare-metal

images: setup
	@cargo run --locked -q -p husk-tests --bin busybox-image -- \
	    --busybox /bin/busybox --out build/images/busybox
