package check

import (
	"encoding/json"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
)

// withSockets are observations with facts of linux.sockets: two devices, a
// sniffer on the lists, and the kernel's own receiver of packets.
func withSockets(t *testing.T, change func(*socketsData)) *measure.Observations {
	t.Helper()
	obs := recorded(t)
	var modules modulesData
	if err := decode(obs.Item(modulesName).Data, &modules); err != nil {
		t.Fatal(err)
	}
	data := socketsData{
		Sockets: []socketFact{{At: 0xffff888001000000, Family: 17, Type: 3, Owner: "tcpdump (pid 7)"}},
		Devices: []deviceFact{{Name: "lo", Flags: 0x49}, {Name: "eth0", Flags: 0x1103, Promiscuity: 1}},
		Hooks:   []pointer{{Path: "packet_type.func", Value: modules.Kernel.Start, Symbol: "ip_rcv"}},
	}
	change(&data)
	raw, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	obs.Items = append(obs.Items, measure.Observation{Check: socketsName, Data: raw})
	return obs
}

func TestAcceptsSniffer(t *testing.T) {
	c := judgeOne(t, withSockets(t, func(*socketsData) {}), socketsName)
	if c.Outcome != measure.Pass || len(c.Notes) != 2 {
		t.Errorf("%s %s %+v %+v", c.Outcome, c.Reason, c.Findings, c.Notes)
	}
}

func TestDetectsHiddenSniffer(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*socketsData)
		symbol string
	}{
		"socket off the lists": {func(d *socketsData) {
			d.Hidden = []hiddenSocket{{d.Sockets[0], "the files of processes"}}
		}, "tcpdump (pid 7)"},
		"flag taken away":    {func(d *socketsData) { d.Devices[1].Flags &^= 0x100 }, "eth0"},
		"count taken away":   {func(d *socketsData) { d.Devices[1].Promiscuity = 0 }, "eth0"},
		"hook in data":       {func(d *socketsData) { d.Hooks[0].Value = 0xffff888001000000 }, "packet_type.func"},
		"hook in a function": {func(d *socketsData) { d.Hooks[0].Symbol = "ip_rcv+0x10" }, "packet_type.func"},
	} {
		t.Run(name, func(t *testing.T) {
			requireFinding(t, judgeOne(t, withSockets(t, tt.change), socketsName), tt.symbol, "")
		})
	}
}

// TestSocketsModuleArrived: a module that came while the scan ran gets packets by a
// function that no list of modules here has, as llc does when a bridge is made. That
// is not measured; anything else that is wrong is found all the same.
func TestSocketsModuleArrived(t *testing.T) {
	arrived := func(d *socketsData) { d.Arrived = []string{"llc"} }
	if c := judgeOne(t, withSockets(t, arrived), socketsName); c.Outcome != measure.NotMeasured {
		t.Errorf("%s %s %+v", c.Outcome, c.Reason, c.Findings)
	}
	hooked := func(d *socketsData) { arrived(d); d.Hooks[0].Value = 0xffff888001000000 }
	requireFinding(t, judgeOne(t, withSockets(t, hooked), socketsName), "packet_type.func", "")
}

func TestSocketsNotObserved(t *testing.T) {
	c := judgeOne(t, withSockets(t, func(d *socketsData) { d.Devices = nil }), socketsName)
	if c.Outcome != measure.NotMeasured {
		t.Errorf("no devices: %s", c.Outcome)
	}
}
