# Everything a person or a machine does with this repository. Each target that
# needs Debian packages sets itself up first.

GO      ?= go
GOFLAGS ?= -trimpath
BIN     := bin
BENCH   ?= .

.PHONY: all build portable lint check setup test demo bench fuzz damage pictures matrix nested qemus libvirt endurance clean

all: build

# The programs are static; only the QEMU plugin, a C shared object, needs cgo.
build:
	CGO_ENABLED=0 $(GO) build $(GOFLAGS) -o $(BIN)/ ./cmd/...
	CGO_ENABLED=1 $(GO) build $(GOFLAGS) -buildmode=c-shared -o $(BIN)/plumbline-trap.so ./filewatch/trap/qemutcg/plugin

# The verifier and the appraising commands need no Linux: the program builds
# elsewhere too, without what only a host of machines can do.
portable:
	GOOS=windows CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/plumbline
	GOOS=darwin CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/plumbline

# Format, vet and staticcheck, over the tests that need a machine too.
lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w these:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags lab,bench,matrix ./...
	$(GO) tool staticcheck -tags lab,bench,matrix ./...

check: setup lint
	$(GO) test ./...

# Debian packages that are missing, with root or sudo; names them where neither
# works.
setup:
	.ci/setup

# Everything, the real machine included, one line per package. Two packages at
# a time: each may have machines running.
test: setup build portable lint
	$(GO) test -tags lab -count=1 -p 2 -timeout 80m ./...

demo: setup build
	$(GO) run ./internal/demo

# One area: make bench BENCH=measure
bench: setup build
	.ci/bench $(BENCH)

# Each fuzz target for a short while: make fuzz FUZZTIME=10s
FUZZTIME ?= 10s
fuzz:
	.ci/fuzz $(FUZZTIME)

# Images damaged at random under their checksums, for the night: make damage
DAMAGE ?= 10000
damage: setup
	.ci/damage $(DAMAGE)

# Disks of a guest that writes them, copied N times in the middle of it, against
# the guest's own recovery of each copy: make pictures
PICTURES ?= 50
pictures: setup
	.ci/pictures $(PICTURES)

# Each kernel of Debian's suites, one CPU and two, two models, with tracing,
# probes and BPF: MATRIX narrows it, as in make matrix MATRIX=trixie
MATRIX ?= .
matrix: setup build
	.ci/matrix $(MATRIX)

# Kernels under real KVM within the test machine, measured from there: NESTED
# narrows it, as in make nested NESTED=trixie
NESTED ?= .
nested: setup
	.ci/nested $(NESTED)

# The product on the QEMU of other suites of Debian, which is fetched and unpacked
# and not installed: make qemus QEMUS=trixie, and with TAMPERS=1 each change
QEMUS ?= trixie sid
qemus: setup build
	.ci/qemus $(QEMUS)

# The product on a libvirt of this machine's own, which it installs: as root.
libvirt: setup build
	.ci/libvirt

# 200 scans of a machine that is kept busy with all that is honest.
endurance: setup build
	.ci/endurance

clean:
	rm -rf $(BIN)
