package main

import "fmt"

func sprint(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// compress runs the rounds and folds the state into the chaining value.
func (g *generator) compress(v vectors) {
	order := [16]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	for range rounds {
		g.mix(v, [4]column{{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15}}, order[:8])
		g.mix(v, [4]column{{0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13}, {3, 4, 9, 14}}, order[8:])
		var next [16]int
		for i, p := range permutation {
			next[i] = order[p]
		}
		order = next
	}
	if v.memory {
		g.op("VMOVDQA", v.spilled(), v.wide(8))
	}
	for i := range 8 {
		g.op(v.xor(), v.wide(8+i), v.wide(i), v.wide(i))
		if v.memory {
			g.op("VMOVDQA", v.wide(i), v.chaining(i))
		}
	}
}

// column names the four words of the state that one quarter of a round mixes.
type column struct{ a, b, c, d int }

// mix does four quarter rounds side by side: each waits for itself most of the
// time (BLAKE3 specification, 2.2, function G).
func (g *generator) mix(v vectors, columns [4]column, words []int) {
	for half, rotations := range [2][2]int{{16, 12}, {8, 7}} {
		each := func(f func(i int, q column)) {
			for i, q := range columns {
				f(i, q)
			}
		}
		each(func(i int, q column) { g.op("VPADDD", v.message(words[2*i+half]), v.wide(q.a), v.wide(q.a)) })
		each(func(_ int, q column) { g.op("VPADDD", v.wide(q.b), v.wide(q.a), v.wide(q.a)) })
		each(func(_ int, q column) { g.op(v.xor(), v.wide(q.a), v.wide(q.d), v.wide(q.d)) })
		each(func(_ int, q column) { g.rotate(v, q.d, rotations[0]) })
		each(func(_ int, q column) { g.add(v, q.d, q.c) })
		each(func(_ int, q column) { g.op(v.xor(), v.wide(q.c), v.wide(q.b), v.wide(q.b)) })
		each(func(_ int, q column) { g.rotate(v, q.b, rotations[1]) })
	}
}

// add adds word d to word c. Word 8 may lie in memory; its register holds it
// until the next rotation.
func (g *generator) add(v vectors, d, c int) {
	if v.memory && c == 8 {
		g.op("VPADDD", v.spilled(), v.wide(d), v.wide(8))
		g.op("VMOVDQA", v.wide(8), v.spilled())
		return
	}
	g.op("VPADDD", v.wide(d), v.wide(c), v.wide(c))
}

// rotate turns each word of a register right.
func (g *generator) rotate(v vectors, r, bits int) {
	switch {
	case !v.memory:
		g.op("VPRORD", sprint("$%d", bits), v.wide(r), v.wide(r))
	case bits%8 == 0:
		g.op("VPSHUFB", sprint("rotate%d<>(SB)", bits), v.wide(r), v.wide(r))
	default:
		g.op("VPSRLD", sprint("$%d", bits), v.wide(r), v.wide(8))
		g.op("VPSLLD", sprint("$%d", 32-bits), v.wide(r), v.wide(r))
		g.op("VPOR", v.wide(8), v.wide(r), v.wide(r))
	}
}
