package check

import (
	"bytes"
	"slices"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

const opsPage = 0xffff_ffff_c040_0040

// Functions of tables are those that the tables have and those on the kernel's list,
// which names no trampolines of others then.
func TestFunctionsOfTables(t *testing.T) {
	program := imageFact{"program", opsPage - 0x100, opsPage - 0x80, false}
	other := imageFact{"bpf_trampoline_1", opsPage + mem.PageSize, opsPage + mem.PageSize + 0x100, true}
	d := dynamicData{Images: []imageFact{{"bpf__ops_second", opsPage + 0x80, opsPage + 0x100, true}, program, other, {"bpf__ops_first", opsPage, opsPage + 0x80, true}}}
	table := kernel.StructOps{Pages: []mem.Virt{opsPage}, Functions: []mem.Virt{opsPage + 0x90, opsPage, opsPage}}
	if err := d.addTables([]kernel.StructOps{table, {Pages: table.Pages}}); err != nil {
		t.Fatal(err)
	}
	images := []imageFact{program, other, {structOpsName, opsPage, opsPage + mem.PageSize, true}}
	functions := []functionFact{{opsPage, true}, {opsPage + 0x80, true}, {opsPage + 0x90, false}}
	if !slices.Equal(d.Images, images) || !slices.Equal(d.Functions, functions) {
		t.Errorf("%v %v", d.Images, d.Functions)
	}
	if got := d.functionsIn(opsPage+1, opsPage+0x90); !slices.Equal(got, functions[1:2]) {
		t.Errorf("in a part of the page: %v", got)
	}
	many := make([]mem.Virt, maxImages+1)
	for i := range many {
		many[i] = opsPage + mem.Virt(i)
	}
	if err := new(dynamicData).addTables([]kernel.StructOps{{Functions: many}}); err == nil {
		t.Error("tables of any number of functions are taken")
	}
}

// Code of a table is taken apart where its functions start. A function that the table
// calls and the list has not is told, if that has others of the page.
func TestFunctionsOfTablesAreJudgedApart(t *testing.T) {
	for name, tt := range map[string]struct {
		functions []functionFact
		found     int
	}{
		"none is on the list":    {[]functionFact{{opsPage, false}, {opsPage + 0x80, false}}, 0},
		"each is on the list":    {[]functionFact{{opsPage, true}, {opsPage + 0x80, true}}, 0},
		"one is not on the list": {[]functionFact{{opsPage, true}, {opsPage + 0x80, true}, {opsPage + 0x90, false}}, 1},
		"only one of another's":  {[]functionFact{{opsPage - 0x80, true}, {opsPage, false}, {opsPage + mem.PageSize, true}}, 0},
	} {
		for _, packed := range []bool{false, true} {
			d := dynamicJudge{data: &dynamicData{Functions: tt.functions, Uncleared: true}, out: new(measure.Check)}
			d.trampoline(structOpsName, opsPage, bytes.Repeat([]byte{0x90}, mem.PageSize), packed)
			d.trampoline("bpf_trampoline_1", opsPage, make([]byte, mem.PageSize), packed)
			if len(d.out.Findings) != tt.found {
				t.Errorf("%s: %+v", name, d.out.Findings)
			}
			var starts []mem.Virt
			for _, f := range tt.functions {
				if f.At >= opsPage && f.At < opsPage+mem.PageSize {
					starts = append(starts, mem.Virt(f.At))
				}
			}
			image, other := d.images[0], d.images[1]
			if !slices.Equal(image.Functions, starts) || image.Packed != packed || !image.Uncleared || !image.Trampoline || len(other.Functions) != 0 {
				t.Errorf("%s: %+v", name, image.Functions)
			}
		}
	}
}
