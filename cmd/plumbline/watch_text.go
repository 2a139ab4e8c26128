package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// eventLine is an event for people: when, what, by whom, and the verdict where
// there is one.
func eventLine(e *filewatch.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-9s", e.Time.UTC().Format(time.RFC3339), e.Op)
	if e.Path != "" || e.NewPath == "" {
		fmt.Fprintf(&b, " %s", filewatch.PrintablePath(e.Path))
	}
	if e.NewPath != "" {
		fmt.Fprintf(&b, " -> %s", filewatch.PrintablePath(e.NewPath))
	}
	if e.Actor.Unknown != "" {
		fmt.Fprintf(&b, " by someone unknown (%s)", printable(e.Actor.Unknown))
	} else {
		fmt.Fprintf(&b, " by %s (pid %d, uid %d)", filewatch.PrintablePath(e.Actor.Name), e.Actor.PID, e.Actor.UID)
	}
	fmt.Fprintf(&b, " [%s]", e.Level)
	if e.Status != filewatch.Done {
		fmt.Fprintf(&b, " %s", e.Status)
	}
	if e.Follows != 0 {
		fmt.Fprintf(&b, " as found on disk")
	}
	if e.Verdict.Outcome != filewatch.NotJudged {
		fmt.Fprintf(&b, ": %s %s", e.Verdict.Outcome, printable(e.Verdict.Reason))
	}
	return strings.TrimRight(b.String(), " ")
}

func alertLine(a filewatch.Alert) string {
	line := fmt.Sprintf("%s ALERT     %s: %s", a.Time.UTC().Format(time.RFC3339), a.Alert, printable(a.Reason))
	if a.Lost > 0 {
		line += fmt.Sprintf(" (%d events from number %d on)", a.Lost, a.First)
	}
	return line
}
