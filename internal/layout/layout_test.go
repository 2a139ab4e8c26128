package layout

import (
	"bufio"
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/plumbline-sec/plumbline/"

// rule says what a tree may not import. Paths are relative to the module; a
// path ending in "/..." is that package and all below it, one without is that
// package alone.
type rule struct {
	from   string
	denied []string
	except []string
	why    string
}

var rules = []rule{
	{"measure/...", []string{"attest/...", "filewatch/...", "baseline/...", "remote/...", "cmd/..."}, nil, "measure stands alone"},
	{"attest/...", []string{"measure/...", "filewatch/...", "baseline/...", "remote/...", "cmd/..."}, nil, "attest stands alone"},
	{"filewatch/...", []string{"measure/...", "attest/...", "baseline/...", "remote/...", "cmd/..."}, nil, "filewatch stands alone"},
	{"baseline/...", []string{"measure/...", "attest/...", "filewatch/...", "remote/...", "cmd/..."},
		[]string{"measure", "attest", "filewatch"}, "baseline sees only the root vocabulary"},
	{"filewatch/trap/...", []string{"filewatch/tap/..."}, nil, "a trapped operation owes nothing to the disk path"},
	{"filewatch/tap/...", []string{"filewatch/trap/..."}, nil, "the disk path owes nothing to trapped operations"},
	{"remote/verifier/...", []string{"attest/tpm/...", "measure/mem/...", "filewatch/volume/...", "filewatch/disk/...", "filewatch/trap/...", "filewatch/tap/..."},
		[]string{"measure/mem"}, "the verifier needs no root, TPM or QEMU"},
	{"remote/store/...", []string{"remote/verifier/...", "remote/agent/..."}, nil, "the store serves the verifier"},
	{"remote/console/...", []string{"remote/agent/...", "attest/tpm/..."}, nil, "the console shows what the API does"},
	{"internal/...", []string{"measure/...", "attest/...", "filewatch/...", "baseline/...", "remote/...", "cmd/..."}, nil, "internal imports nothing above it"},
	{"measure", []string{"measure/...", "internal/..."}, []string{"measure"}, "the root vocabulary is portable"},
	{"measure/kernel/...", []string{"measure/mem/..."}, []string{"measure/mem"}, "profiles know no backend"},
	{"measure/check/...", []string{"measure/mem/..."}, []string{"measure/mem"}, "checks know no backend"},
}

func TestImportsFollowTheLayout(t *testing.T) {
	graph := dependencies(t)
	if len(graph) < 2 {
		t.Fatalf("go list gave %d packages: the rules looked at nothing", len(graph))
	}
	for pkg, deps := range graph {
		for _, r := range rules {
			if !covers(r.from, pkg) {
				continue
			}
			for _, dep := range deps {
				if dep != pkg && anyCovers(r.denied, dep) && !anyCovers(r.except, dep) && !covers(r.from, dep) {
					t.Errorf("%s depends on %s: %s", pkg, dep, r.why)
				}
			}
		}
	}
}

// dependencies maps each package of this module to all it imports, at any
// depth, within this module.
func dependencies(t *testing.T) map[string][]string {
	t.Helper()
	list := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Deps}} {{.}}{{end}}`, "./...")
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	graph := make(map[string][]string)
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		var deps []string
		for _, dep := range fields[1:] {
			if rest, ok := strings.CutPrefix(dep, module); ok {
				deps = append(deps, rest)
			}
		}
		graph[strings.TrimPrefix(fields[0], module)] = deps
	}
	return graph
}

func covers(pattern, pkg string) bool {
	tree, isTree := strings.CutSuffix(pattern, "/...")
	return pkg == tree || isTree && strings.HasPrefix(pkg, tree+"/")
}

func anyCovers(patterns []string, pkg string) bool {
	for _, p := range patterns {
		if covers(p, pkg) {
			return true
		}
	}
	return false
}
