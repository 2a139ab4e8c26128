package main

import (
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// What a guest chose, names of files and processes, cannot act upon a terminal.
func TestWatchInText(t *testing.T) {
	at := time.Date(2026, 11, 26, 7, 0, 0, 0, time.UTC)
	sh := filewatch.Actor{Process: filewatch.Process{PID: 7, UID: 3, Name: "s\x1bh"}}
	for _, c := range []struct {
		v    any
		want string
	}{
		{&filewatch.Event{Time: at, Op: filewatch.OpRename, Path: "/a\x1b[2J", NewPath: "/b", Actor: sh, Level: filewatch.Verify},
			`2026-11-26T07:00:00Z rename    /a\x1b[2J -> /b by s\x1bh (pid 7, uid 3) [verify]`},
		{&filewatch.Event{Time: at, Op: filewatch.OpWrite, Path: "/a", Actor: filewatch.Actor{Unknown: "why"}, Level: filewatch.Protect, Follows: 1,
			Verdict: filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: "because"}},
			`2026-11-26T07:00:00Z write     /a by someone unknown (why) [protect] as found on disk: not-measured because`},
		{&filewatch.Event{Time: at, Op: filewatch.OpLink, NewPath: "/new", Actor: sh, Level: filewatch.Verify},
			`2026-11-26T07:00:00Z link      -> /new by s\x1bh (pid 7, uid 3) [verify]`},
		{filewatch.Alert{Time: at, Alert: filewatch.AlertGap, First: 5, Lost: 2, Reason: "full"},
			`2026-11-26T07:00:00Z ALERT     gap: full (2 events from number 5 on)`},
	} {
		var out strings.Builder
		if err := (&lineWriter{w: &out, text: true}).print(c.v); err != nil {
			t.Fatal(err)
		}
		if out.String() != c.want+"\n" {
			t.Errorf("got  %swant %s", out.String(), c.want)
		}
	}
}
