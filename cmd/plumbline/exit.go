package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Exit codes. 0 is all well; 1 to 7 are verdicts of the command (a failed
// measurement, or AIDE's bit mask for "baseline check"); errors start at 14
// and have the numbers AIDE gives them (aide(1), DIAGNOSTICS), so that scripts
// written for it keep their meaning.
const (
	exitFail          = 1  // "measure", "attest verify": at least one check failed
	exitArgument      = 15 // invalid argument or flag
	exitUnimplemented = 16 // asked for something this build or this target cannot do
	exitConfig        = 17 // configuration, rules or policy cannot be used
	exitIO            = 18 // reading or writing failed, or a peer could not be reached
	exitVersion       = 19 // a file of another format version
	exitData          = 24 // a baseline, evidence or reference is damaged or does not verify
	exitIncomplete    = 40 // not every check ran; no failure seen
)

// errInterrupted is what people read of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

// exitError carries the exit code of a command and what to tell the user.
type exitError struct {
	code int
	err  error  // nil when the result on stdout has said it all
	hint string // one line of advice, may be empty
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// fail ends a command with code and a message.
func fail(code int, err error) error { return &exitError{code: code, err: err} }

// failHint is fail with a line of advice after the message.
func failHint(code int, err error, hint string) error {
	return &exitError{code: code, err: err, hint: hint}
}

// printableLines keeps names and texts of a guest, an image or a peer, of which an
// error may tell, from acting upon the terminal. Joined errors have a line each.
func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n")
}

// verdict ends a command with code and no message: stdout has the result.
func verdict(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

// outcomeCode is the exit code for what a scan or an appraisal came to: the words
// are the same in each package that judges, and one that is unknown is no pass.
func outcomeCode[O ~string](outcome O) int {
	switch outcome {
	case "pass":
		return 0
	case "fail":
		return exitFail
	}
	return exitIncomplete
}

// helpHint sends whoever called a command wrongly to its help.
func helpHint(command string) string { return "see " + command + " --help" }

// report prints the error of a command the way the command line promises and
// returns the exit code.
func report(w io.Writer, command string, err error) int {
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		// cobra's own complaints: unknown command, missing argument.
		exit = &exitError{code: exitArgument, err: errors.New(plainly(err.Error())), hint: helpHint(command)}
	}
	if exit.err != nil {
		fmt.Fprintf(w, "plumbline: %s\n", printableLines(exit.err.Error()))
		if exit.hint != "" {
			fmt.Fprintf(w, "hint: %s\n", printable(exit.hint))
		}
	}
	return exit.code
}
