package main

// Registers of a kernel: R8 to R11 hold the inputs, each with four lanes that
// lie SI bytes apart (R12 is three times that), DI counts blocks, CX are the
// flags of the block at hand and DX those of the others, BX is aligned memory.
var inputs = []string{"R8", "R9", "R10", "R11"}

// lane addresses 16 bytes of a block.
func lane(input, lane, offset int) string {
	index := []string{"", "(SI*1)", "(SI*2)", "(R12*1)"}[lane]
	return sprint("%d(%s)%s", offset, inputs[input], index)
}

// kernel writes a function that runs the compression function over the blocks
// of all lanes at once:
//
//	func hashAVX2(out *byte, inputs *unsafe.Pointer, stride, blocks uint64, counters *uint32, flags, first, last uint32)
//
// Lane 4p+i starts at inputs[p]+i*stride and has its chaining value written to
// out[32*(4p+i):].
func (g *generator) kernel(v vectors) {
	const arguments = 8*5 + 4*3
	g.line("")
	g.line("// func hash%s(out *byte, inputs *unsafe.Pointer, stride, blocks uint64, counters *uint32, flags, first, last uint32)", v.name)
	g.line("TEXT ·hash%s(SB), 0, $%d-%d", v.name, v.frame(), arguments)
	g.op("MOVQ", "inputs+8(FP)", "AX")
	for i := range v.pages {
		g.op("MOVQ", sprint("%d(AX)", 8*i), inputs[i])
	}
	g.op("MOVQ", "stride+16(FP)", "SI")
	g.op("LEAQ", "(SI)(SI*2)", "R12")
	g.op("MOVQ", "blocks+24(FP)", "DI")
	g.op("MOVQ", "counters+32(FP)", "R13")
	g.op("MOVL", "flags+40(FP)", "DX")
	g.op("MOVL", "first+44(FP)", "CX")
	g.op("ORL", "DX", "CX")
	if v.memory {
		g.op("LEAQ", sprint("%d(SP)", v.bytes()-1), "BX")
		g.op("ANDQ", sprint("$~%d", v.bytes()-1), "BX")
	}
	for i := range 8 {
		g.op("VPBROADCASTD", word(i), v.wide(i))
		if v.memory {
			g.op("VMOVDQA", v.wide(i), v.chaining(i))
		}
	}
	g.line("block%s:", v.name)
	g.load(v)
	g.initialise(v)
	g.compress(v)
	for _, input := range inputs[:v.pages] {
		g.op("ADDQ", "$64", input)
	}
	g.op("MOVL", "DX", "CX")
	g.op("DECQ", "DI")
	g.op("JNZ", sprint("block%s", v.name))
	g.op("MOVQ", "out+0(FP)", "AX")
	g.store(v)
	g.op("VZEROUPPER")
	g.op("RET")
}

func word(i int) string { return sprint("words<>+%d(SB)", 4*i) }

// load reads a block of each lane and turns it around: register or memory i has
// word i of all lanes. Four words at a time make rows of 16 bytes, one for each
// lane, those of lanes i, i+4, ... in one register.
func (g *generator) load(v vectors) {
	for quarter := range 4 {
		for i := range 4 {
			g.op("VMOVDQU", lane(0, i, 16*quarter), v.narrow(8+i))
			for p := 1; p < v.pages; p++ {
				g.op(v.insert(), sprint("$%d", p), lane(p, i, 16*quarter), v.wide(8+i), v.wide(8+i))
			}
		}
		g.turn(v, [4]int{8, 9, 10, 11}, [4]int{12, 13, 14, 15})
		for i := range 4 {
			if word := v.message(4*quarter + i); v.memory {
				g.op("VMOVDQA", v.wide(8+i), word)
			} else {
				g.op("VMOVDQA32", v.wide(8+i), word)
			}
		}
	}
}

func (v vectors) insert() string {
	if v.memory {
		return "VINSERTI128"
	}
	return "VINSERTI32X4"
}

func (v vectors) extract() string {
	if v.memory {
		return "VEXTRACTI128"
	}
	return "VEXTRACTI32X4"
}

// turn transposes four by four words in each 16 bytes of four registers.
func (g *generator) turn(v vectors, r, spare [4]int) {
	g.op("VPUNPCKLDQ", v.wide(r[1]), v.wide(r[0]), v.wide(spare[0]))
	g.op("VPUNPCKHDQ", v.wide(r[1]), v.wide(r[0]), v.wide(spare[1]))
	g.op("VPUNPCKLDQ", v.wide(r[3]), v.wide(r[2]), v.wide(spare[2]))
	g.op("VPUNPCKHDQ", v.wide(r[3]), v.wide(r[2]), v.wide(spare[3]))
	g.op("VPUNPCKLQDQ", v.wide(spare[2]), v.wide(spare[0]), v.wide(r[0]))
	g.op("VPUNPCKHQDQ", v.wide(spare[2]), v.wide(spare[0]), v.wide(r[1]))
	g.op("VPUNPCKLQDQ", v.wide(spare[3]), v.wide(spare[1]), v.wide(r[2]))
	g.op("VPUNPCKHQDQ", v.wide(spare[3]), v.wide(spare[1]), v.wide(r[3]))
}

// initialise sets the state: the chaining value is there, or in memory.
func (g *generator) initialise(v vectors) {
	if v.memory {
		for i := range 8 {
			g.op("VMOVDQA", v.chaining(i), v.wide(i))
		}
	}
	for i := range 4 {
		g.op("VPBROADCASTD", word(i), v.wide(8+i))
	}
	if v.memory {
		g.op("VMOVDQA", v.wide(8), v.spilled())
	}
	if v.memory {
		g.op("VMOVDQU", "(R13)", v.wide(12))
	} else {
		g.op("VMOVDQU32", "(R13)", v.wide(12))
	}
	g.op(v.xor(), v.wide(13), v.wide(13), v.wide(13)) // counters' upper halves
	g.op("VPBROADCASTD", word(8), v.wide(14))
	g.op("CMPQ", "DI", "$1")
	g.op("JNE", sprint("flags%s", v.name))
	g.op("ORL", "last+48(FP)", "CX")
	g.line("flags%s:", v.name)
	g.op("VMOVD", "CX", v.narrow(15))
	g.op("VPBROADCASTD", v.narrow(15), v.wide(15))
}

func (v vectors) xor() string {
	if v.memory {
		return "VPXOR"
	}
	return "VPXORD"
}

// store turns the chaining value around and writes it, lane after lane.
func (g *generator) store(v vectors) {
	for half := range 2 {
		r := [4]int{4 * half, 4*half + 1, 4*half + 2, 4*half + 3}
		g.turn(v, r, [4]int{12, 13, 14, 15})
		for i := range 4 {
			g.op("VMOVDQU", v.narrow(r[i]), sprint("%d(AX)", 32*i+16*half))
			for p := 1; p < v.pages; p++ {
				g.op(v.extract(), sprint("$%d", p), v.wide(r[i]), sprint("%d(AX)", 32*(4*p+i)+16*half))
			}
		}
	}
}
