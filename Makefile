# What people and CI call. Each target sets up what it needs by itself.

run: setup        ## build, and run the demo on ./pool.img (twice shows that data stays)
	@scripts/demo

test: setup       ## format, lints, unit tests, whole-system tests on the local KVM and in the testbed
	@scripts/test

test-intel: setup ## the tests that need VT-x with EPT, in the testbed's Intel machine (minutes)
	@scripts/test-intel

coverage: setup   ## which code of the guest kernel no test program reaches
	@scripts/coverage

test-power: setup ## hundreds of power cuts and kills under load, and seeded faults (an hour)
	@scripts/test-power

bench:            ## measure, and print what was measured on what
	@scripts/bench

bench-compare:    ## what became slower: make bench-compare A.json B.json (or A=A.json B=B.json)
	@cargo run --release --quiet -p bench -- compare $(if $(A),$(A) $(B),$(filter-out bench-compare,$(MAKECMDGOALS)))

book: setup       ## the book as HTML, in target/book
	@scripts/book

setup:            ## install what the rest needs (as root), or say how
	@scripts/setup

fmt:              ## format all sources
	cargo fmt --all

lint:             ## what `make test` says about the sources alone
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

help:             ## this list
	@sed -n 's/^\([a-z-]*\):.*##/  \1\t/p' Makefile | expand -t 15

.PHONY: run test test-intel test-power coverage bench bench-compare book setup fmt lint help
