# Dumont. Users need:  make demo | make test | make && make install
# Everything is built below $(BUILD); SAN=asan|ubsan|tsan selects an instrumented build in a folder of its own.

SAN     ?=
BUILD   ?= build$(if $(SAN),/$(SAN))
DESTDIR ?=
PREFIX  ?= /usr
VERSION := 0.1.0
CC      ?= gcc
PKGS    := fuse3 liblz4 libcurl sqlite3 libuv openssl libxxhash jansson libmicrohttpd
PC      := pkg-config

WARN    := -Wall -Wextra -Wshadow -Wconversion -Wvla -Wmissing-prototypes -Wformat=2 -Werror
SANFLAG_asan  := -fsanitize=address -fno-omit-frame-pointer
SANFLAG_ubsan := -fsanitize=undefined -fno-sanitize-recover=undefined
SANFLAG_tsan  := -fsanitize=thread
# for the entries of tests/fuzz with libFuzzer, by clang; its warnings are not ours
SANFLAG_fuzz  := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -w
SANFLAGS := $(SANFLAG_$(SAN))
OPT     ?= -O2
CFLAGS_ALL := -std=gnu11 $(OPT) -g $(WARN) -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DFUSE_USE_VERSION=314 \
	-DDMT_VERSION='"$(VERSION)"' -DDMT_LIBDIR='"$(PREFIX)/lib/dumont"' -I. $(SANFLAGS) $(CFLAGS)
LDFLAGS_ALL := $(SANFLAGS) -pthread $(LDFLAGS)

# pkg-config is asked only when something is really built, so that `make demo` can install it first.
cflags-pkg = $(eval cflags-pkg := $$(shell $$(PC) --cflags $$(PKGS) 2>/dev/null))$(cflags-pkg)
libs-pkg   = $(eval libs-pkg := $$(shell $$(PC) --libs $$(PKGS) 2>/dev/null) -ls3)$(libs-pkg)
V ?= 0
quiet = $(if $(filter 0,$(V)),@printf '  %-4s %s\n' $(1) $@;)

# --- layers: one static library a module; a module may be linked only with what stands before it -------------
MODULES := base journal store workspace fuse replica archive lease
lib      = $(BUILD)/lib$(1).a
# what a test or program of module M links with, top first
DEPS_base      := base
DEPS_journal   := journal base
DEPS_store     := store base
DEPS_workspace := workspace journal store base
DEPS_fuse      := fuse workspace journal store base
DEPS_replica   := replica workspace journal store base
DEPS_archive   := archive workspace journal store base
DEPS_lease     := lease base
DEPS_holder    := base
DEPS_all       := fuse replica archive lease workspace journal store base
DEPS_daemon    := daemon lease base
libs = $(foreach m,$(DEPS_$(1)),$(call lib,$(m)))

define module_rules
SRC_$(1) := $$(wildcard fs/$(1)/*.c)
OBJ_$(1) := $$(SRC_$(1):%.c=$(BUILD)/obj/%.o)
$(call lib,$(1)): $$(OBJ_$(1)); @rm -f $$@; ar rcs $$@ $$^
endef
$(foreach m,$(MODULES),$(eval $(call module_rules,$(m))))

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
SRC_dumontfs := $(wildcard fs/dumontfs*.c)
SRC_holder   := $(wildcard fs/holder/*.c)
SRC_mount    := $(wildcard tools/mount/*.c)
SRC_dumont   := $(wildcard tools/*.c)
SRC_dumontd  := $(wildcard daemon/*.c)
# all of dumontd but its main files, so that its tests can link with it
SRC_daemon   := $(wildcard daemon/*/*.c)
$(call lib,daemon): $(call obj,$(SRC_daemon)); @rm -f $@; ar rcs $@ $^

PROGRAMS := $(if $(SRC_dumontfs),$(BUILD)/dumontfs) $(if $(SRC_holder),$(BUILD)/dumont-holder) \
	$(if $(SRC_mount),$(BUILD)/mount.dumont) $(if $(SRC_dumont),$(BUILD)/dumont) $(if $(SRC_dumontd),$(BUILD)/dumontd)

.DEFAULT_GOAL := all
.PHONY: all clean install demo test test-programs fuzz-programs fuzz-smoke mutants bench bench-grow bench-link bench-peers lint asan ubsan tsan deps deps-test check-layers format kill-loop takeover-loop chaos sim help
all: $(PROGRAMS)

link = $(call quiet,LD)$(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(libs-pkg) -lm
$(BUILD)/dumontfs:      $(call obj,$(SRC_dumontfs)) $(call libs,all);    $(link)
$(BUILD)/dumont-holder: $(call obj,$(SRC_holder))   $(call libs,holder); $(link)
$(BUILD)/mount.dumont:  $(call obj,$(SRC_mount))    $(call libs,holder); $(link)
$(BUILD)/dumont:        $(call obj,$(SRC_dumont))   $(call libs,all);    $(link)
$(BUILD)/dumontd:       $(call obj,$(SRC_dumontd))  $(call libs,daemon); $(link)

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call quiet,CC)$(CC) $(CFLAGS_ALL) $(cflags-pkg) -MMD -MP -c -o $@ $<

# --- tests: tests/unit/MODULE/test_*.c is one program linked with MODULE and the layers below it ---------------
TESTLIB_SRC := $(wildcard tests/lib/*.c)
UNIT_SRC    := $(wildcard tests/unit/*/test_*.c tests/property/*/test_*.c tests/crash/*/test_*.c)
UNIT_BIN    := $(UNIT_SRC:%.c=$(BUILD)/%)
# tests/lib/bin/NAME.c is a helper program of its own (relay, tree digest, ledger writer ...)
HELPER_SRC  := $(wildcard tests/lib/bin/*.c) $(wildcard tests/bench/*.c)
HELPER_BIN  := $(HELPER_SRC:%.c=$(BUILD)/%)
# tests/fuzz/fuzz_NAME.c is a fuzz entry; its opening comment says "modules: TOP ...", TOP being the module to link with. With
# SAN=fuzz libFuzzer drives it, else tests/fuzz/driver.c
FUZZ_SRC    := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN    := $(FUZZ_SRC:%.c=$(BUILD)/%)
FUZZ_DRIVER := $(if $(filter fuzz,$(SAN)),,$(call obj,tests/fuzz/driver.c))
# tests/sim is one program: the cores of lease and replica and the controller's decisions in a simulated world
SIM_BIN     := $(BUILD)/tests/sim/test_sim
fuzz-programs: $(FUZZ_BIN)
test-programs: $(UNIT_BIN) $(HELPER_BIN) $(FUZZ_BIN) $(SIM_BIN)

.SECONDEXPANSION:
module-of = $(word 3,$(subst /, ,$(patsubst $(BUILD)/%,%,$(1))))
$(UNIT_BIN): $(BUILD)/%: $(BUILD)/obj/%.o $(call obj,$(TESTLIB_SRC)) $$(call libs,$$(call module-of,$$@))
	@mkdir -p $(@D)
	$(call quiet,LD)$(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(libs-pkg) -lcmocka -lm
fuzz-module = $(shell sed -n '1,12s/.*modules: \([a-z]*\).*/\1/p' $(1))
$(FUZZ_BIN): $(BUILD)/%: $(BUILD)/obj/%.o $(FUZZ_DRIVER) $$(call libs,$$(call fuzz-module,$$*.c))
	@mkdir -p $(@D)
	$(call quiet,LD)$(CC) $(LDFLAGS_ALL) $(if $(FUZZ_DRIVER),,-fsanitize=fuzzer) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(libs-pkg) -lm
$(HELPER_BIN): $(BUILD)/%: $(BUILD)/obj/%.o $(call libs,base)
	@mkdir -p $(@D)
	$(call quiet,LD)$(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(libs-pkg) -lm

SIM_OBJ := $(call obj,$(wildcard tests/sim/*.c))
$(SIM_BIN): $(SIM_OBJ) $(call libs,daemon) $(call lib,replica)
	@mkdir -p $(@D)
	$(call quiet,LD)$(CC) $(LDFLAGS_ALL) -o $@ $(SIM_OBJ) $(call lib,daemon) $(call lib,replica) $(call lib,lease) $(call lib,base) $(libs-pkg) -lm

deps:
	@.ci/install build run
deps-test:
	@.ci/install build run test

test: deps-test
	@$(MAKE) --no-print-directory all test-programs
	@BUILD=$(BUILD) tests/run

demo: deps
	@$(MAKE) --no-print-directory -s all $(BUILD)/tests/lib/bin/treedigest $(BUILD)/tests/lib/bin/ledger
	@BUILD=$(BUILD) tests/demo/run

BENCH_BIN := $(BUILD)/tests/bench/bench $(BUILD)/tests/bench/fusefloor $(BUILD)/tests/bench/linkio $(BUILD)/tests/lib/bin/relay $(BUILD)/tests/lib/bin/treedigest
bench: deps
	@$(MAKE) --no-print-directory -s all $(BENCH_BIN)
	@BUILD=$(BUILD) tests/bench/run

# how cost, memory, mount and recovery grow: make bench-grow [FILES=1000000] [MIB=10000] [RECOVER=1024]
bench-grow: deps
	@$(MAKE) --no-print-directory -s all $(BENCH_BIN)
	@BUILD=$(BUILD) tests/bench/grow

# a pair over a link of 100 Mbit/s and 40 ms, and over loopback: make bench-link [MIB=300 RATE=12500000 RTT=40 ROUNDS=20]
bench-link: deps
	@$(MAKE) --no-print-directory -s all $(BENCH_BIN)
	@BUILD=$(BUILD) tests/bench/link

# beside the filesystems that people would use instead
bench-peers: deps
	@.ci/install peers
	@$(MAKE) --no-print-directory -s all $(BENCH_BIN)
	@BUILD=$(BUILD) tests/bench/peers
	@BUILD=$(BUILD) tests/bench/copies

asan ubsan tsan:
	@$(MAKE) --no-print-directory SAN=$@ deps-test
	@$(MAKE) --no-print-directory SAN=$@ all test-programs
	@SAN=$@ BUILD=build/$@ tests/run

# make sim SEED=17 replays one run exactly (TRACE=1 tells each step); COUNT=1000 runs so many from there
sim: $(SIM_BIN)
	@$(SIM_BIN) $(or $(SEED),1) $(or $(COUNT),1)

# every disk operation of every short sequence of operations is cut or fails: make crash [DISKS=60 TRIPLES=4000 SEED=1]; DISKS=0 TRIPLES=0: all
.PHONY: crash
crash: deps-test
	@$(MAKE) --no-print-directory test-programs
	@DMT_JOBS=$$(nproc) DMT_SEED=$(or $(SEED),1) DMT_CUT_PAIR=$(or $(DISKS),60) DMT_CUT_TRIPLE=$(or $(DISKS),60) \
	DMT_CUT_TRIPLES=$(or $(TRIPLES),4000) DMT_CUT_SNAPSHOT=$(or $(DISKS),60) DMT_FAIL_ONE=1 DMT_FAIL_PAIRS=0 DMT_FAIL_PAIR=6 \
	sh -ec 'for t in cut snapshots fail; do $(BUILD)/tests/crash/workspace/test_$$t; done'

kill-loop: deps-test
	@$(MAKE) --no-print-directory all test-programs
	@BUILD=$(BUILD) tests/integration/kill_loop.sh $(or $(ROUNDS),1000)
takeover-loop: deps-test
	@$(MAKE) --no-print-directory all test-programs
	@BUILD=$(BUILD) tests/integration/takeover_loop.sh $(or $(ROUNDS),200)

# a pair in three hosts in namespaces, a fault a round: make chaos ROUNDS=300 SEED=1; the table is in build/chaos.txt too
chaos: deps-test
	@$(MAKE) --no-print-directory all test-programs
	@BUILD=$(BUILD) tests/integration/chaos.sh $(or $(ROUNDS),18) $(or $(SEED),1)

# what clients see of a failover and a handover, by a real run: docs/img/*.svg
.PHONY: plot
plot: deps-test
	@$(MAKE) --no-print-directory -s all test-programs
	@BUILD=$(BUILD) tests/bench/plot-run

# public test suites on a fresh mount, from a checkout that is left as it is: make pjdfstest SRC=DIR (docs/posix.md)
SUITES := pjdfstest fsx xfstests stress
.PHONY: $(SUITES) programs
$(SUITES): deps-test
	@.ci/install suites
	@$(MAKE) --no-print-directory all test-programs
	@BUILD=$(BUILD) tests/suites/$@ $(SRC)

# PostgreSQL, LMDB, venv, npm on a mount
programs: deps-test
	@.ci/install programs
	@$(MAKE) --no-print-directory all test-programs
	@BUILD=$(BUILD) tests/suites/programs

# each entry of tests/fuzz for SECONDS (10) under libFuzzer
fuzz-smoke:
	@.ci/install build run lint
	@BUILD=$(BUILD) tests/fuzz/run $(or $(SECONDS),10)

# bugs planted in a copy of the tree, each of which must be caught by its test
mutants: deps-test
	@tests/mutants/run $(FILTER)

check-layers:
	@tests/lib/check-layers

lint: check-layers
	@.ci/install lint
	@tests/lib/lint

# Headers are laid by hand, up to 130 columns; only their comments are wrapped.
format:
	@.ci/install lint
	tests/lib/wrap-comments 130 $$(git ls-files '*.h')
	tests/lib/wrap-comments 100 $$(git ls-files '*.c')
	clang-format-14 -i $$(git ls-files '*.c')

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/lib/dumont \
	    $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 755 $(BUILD)/dumont $(DESTDIR)$(PREFIX)/bin/dumont
	install -m 755 $(BUILD)/dumontd $(DESTDIR)$(PREFIX)/sbin/dumontd
	install -m 755 $(BUILD)/mount.dumont $(DESTDIR)$(PREFIX)/sbin/mount.dumont
	for n in umount.dumont mount.fuse.dumont umount.fuse.dumont; do ln -sf mount.dumont $(DESTDIR)$(PREFIX)/sbin/$$n; done
	install -m 755 $(BUILD)/dumontfs $(BUILD)/dumont-holder $(DESTDIR)$(PREFIX)/lib/dumont/
	install -m 644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 644 docs/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8/

clean:
	rm -rf build

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
