package graph

import (
	"strconv"
	"strings"
)

// maxPath bounds a path, in steps; what is before is left out.
const maxPath = 12

// prefix is the path of an object.
type prefix struct {
	text  string
	steps int
}

// path names a field of an object by how it was reached.
func (w *walker) path(i int32, last string) string {
	if last == "" {
		return w.prefix(i).text
	}
	return w.prefix(i).text + w.nodes[i].separator() + last
}

// separator is what C writes between an object and its member.
func (n *node) separator() string {
	if n.field != nil && (n.field.kind == table || n.field.kind == object || n.field.kind == anything) {
		return "->"
	}
	return "."
}

// prefix returns the path of an object. Parents come before their children, so
// the walk up ends; objects of one list have the same parent.
func (w *walker) prefix(i int32) prefix {
	if known, ok := w.named[i]; ok {
		return known
	}
	n := &w.nodes[i]
	own := prefix{text: w.label(n)}
	if own.text == "" {
		own = w.below(n)
	}
	w.named[i] = own
	return own
}

// below returns the path of an object by its parent's.
func (w *walker) below(n *node) prefix {
	up := w.chain(n.parent)
	if up.steps >= maxPath {
		return prefix{text: n.typ.Name + " …"}
	}
	name := n.field.name
	if n.index >= 0 {
		name += "[" + strconv.Itoa(int(n.index)) + "]"
	}
	if name == "" || name[0] == '[' { // the variable itself is the pointer or the head
		return prefix{up.text + name, up.steps + 1}
	}
	return prefix{up.text + w.nodes[n.parent].separator() + name, up.steps + 1}
}

// chain returns the path of an object whose ancestors may be very many, all
// linked by pointers to the next: the furthest is named first.
func (w *walker) chain(i int32) prefix {
	var up []int32
	for at := i; at >= 0; at = w.nodes[at].parent {
		if _, ok := w.named[at]; ok {
			break
		}
		up = append(up, at)
	}
	for k := len(up) - 1; k >= 0; k-- {
		w.prefix(up[k])
	}
	return w.prefix(i)
}

// label names an object that people know by more than its path.
func (w *walker) label(n *node) string {
	if n.parent < 0 {
		return w.rootNames[n.root]
	}
	if n.typ != w.task {
		return ""
	}
	number, err1 := w.u32(n.at + w.pid)
	name, err2 := w.read(n.at+w.comm, 16)
	if w.pid == 0 || w.comm == 0 || err1 != nil || err2 != nil {
		return ""
	}
	text, _, _ := strings.Cut(string(name), "\x00")
	return "task " + strconv.Itoa(int(int32(number))) + " (" + text + ")"
}
