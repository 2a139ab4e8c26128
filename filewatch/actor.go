package filewatch

import (
	"encoding/json"
	"fmt"
)

// Process is one process of a guest as its kernel describes it.
type Process struct {
	PID  int    `json:"pid"`
	UID  uint32 `json:"uid"`
	Name string `json:"name"` // task_struct.comm, at most 15 bytes
}

// Actor is who did it. Either Unknown says why that is not known, or the rest
// holds.
type Actor struct {
	Process
	// TID is the thread, EUID the effective user where they differ.
	TID  int
	EUID uint32
	// Ancestry are the parents, nearest first.
	Ancestry []Process
	// Unknown is the reason why nothing else is filled.
	Unknown string
}

// wireActor has the actor flat and, for those who read OCSF, as its Process.
type wireActor struct {
	Unknown  string       `json:"unknown,omitempty"`
	PID      *int         `json:"pid,omitempty"`
	TID      int          `json:"tid,omitempty"`
	UID      *uint32      `json:"uid,omitempty"`
	EUID     *uint32      `json:"euid,omitempty"`
	Name     string       `json:"name,omitempty"`
	Ancestry []Process    `json:"ancestry,omitempty"`
	Process  *wireProcess `json:"process,omitempty"`
}

type wireProcess struct {
	PID  int      `json:"pid"`
	Name string   `json:"name"`
	User wireUser `json:"user"`
}

type wireUser struct {
	UID string `json:"uid"`
}

// MarshalJSON gives {"unknown":reason} or who it was.
func (a Actor) MarshalJSON() ([]byte, error) {
	if a.Unknown != "" {
		return json.Marshal(wireActor{Unknown: a.Unknown})
	}
	name := EscapePath(a.Name)
	w := wireActor{PID: &a.PID, TID: a.TID, UID: &a.UID, Name: name, Ancestry: a.Ancestry,
		Process: &wireProcess{a.PID, name, wireUser{fmt.Sprint(a.UID)}}}
	if a.EUID != a.UID {
		w.EUID = &a.EUID
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON gives.
func (a *Actor) UnmarshalJSON(b []byte) error {
	var w wireActor
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("read actor: %w", err)
	}
	*a = Actor{Unknown: w.Unknown}
	if w.Unknown != "" {
		return nil
	}
	if w.PID == nil || w.UID == nil {
		return fmt.Errorf("read actor: neither a process nor a reason why it is unknown")
	}
	name, err := UnescapePath(w.Name)
	if err != nil {
		return fmt.Errorf("read actor: %w", err)
	}
	a.Process, a.TID, a.EUID, a.Ancestry = Process{*w.PID, *w.UID, name}, w.TID, *w.UID, w.Ancestry
	if w.EUID != nil {
		a.EUID = *w.EUID
	}
	return nil
}
