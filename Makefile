# A front for the CMake presets. On Debian 12 `make serve` and `make check` need nothing done before.

JOBS ?= $(shell nproc)
LISTEN ?= tcp://127.0.0.1:10809
PREFIX ?= /usr/local
PROGRAM := build/release/fdb-nbd
SOURCES = $(shell git ls-files '*.h' '*.cc')

.PHONY: help
help:
	@echo 'make serve     build, make the volume "example" where the store is empty, and serve it'
	@echo 'make check     build and run every test'
	@echo 'make build     build $(PROGRAM)'
	@echo 'make bench     measure against other NBD servers on this machine'
	@echo 'make soak      the long tests: crashes and random operations for hours'
	@echo 'make install   install below PREFIX (DESTDIR is heeded)'
	@echo 'make format    clang-format; make tidy: clang-tidy; make clean: remove build/'
	@echo 'Variables: STORE=URL LISTEN=ADDRESS (serve), PREFIX (install), JOBS'

.PHONY: packages
packages:
	@tools/install-packages build

.PHONY: test-packages
test-packages:
	@tools/install-packages test

build/release/build.ninja: | packages
	cmake --preset release

.PHONY: build
build: packages build/release/build.ninja
	@cmake --build --preset release --parallel $(JOBS) --target fdb-nbd

.PHONY: serve
serve: build
	@exec $(PROGRAM) $(if $(STORE),--store '$(STORE)') serve --listen '$(LISTEN)' --first-volume example=1G --hints

.PHONY: check
check: test-packages build/release/build.ninja
	@cmake --build --preset release --parallel $(JOBS)
	@tools/check build/release --parallel $(JOBS)

.PHONY: bench
bench: build
	@tools/install-packages bench
	@bench/run $(BENCH_ARGS)

.PHONY: soak
soak: test-packages build/release/build.ninja
	@cmake --build --preset release --parallel $(JOBS)
	@tools/check build/release -C soak -L soak

.PHONY: install
install: build
	@cmake --install build/release --prefix '$(PREFIX)'

.PHONY: format
format:
	clang-format-19 -i $(SOURCES)

.PHONY: tidy
tidy: build/release/build.ninja
	@tools/install-packages develop
	run-clang-tidy-19 -quiet -p build/release -j $(JOBS) '^$(CURDIR)/src/'

.PHONY: clean
clean:
	rm -rf build
