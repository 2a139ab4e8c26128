package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure/oob"
)

// bmcCommand is the machine's BMC as a process of its own, which up starts. It
// switches the machine and keeps an event log; scans are an agent's business.
func bmcCommand() *cobra.Command {
	var socket, monitor, info string
	command := &cobra.Command{
		Use:     "bmc",
		Short:   "Serve the BMC of a machine",
		Example: "  plumbline-lab bmc --socket bmc.sock --qmp lab-qmp.sock --info bmc.json",
		Hidden:  true,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return serveBMC(command.Context(), socket, monitor, info)
		},
	}
	flags := command.Flags()
	flags.StringVar(&socket, "socket", "", "Unix socket for QEMU's ipmi-bmc-extern")
	flags.StringVar(&monitor, "qmp", "", "QMP socket to switch the machine through")
	flags.StringVar(&info, "info", "", "file to write the LAN address and login to")
	return command
}

// bmcArguments is the command line that makes this program a machine's BMC.
func bmcArguments(m *lab.Machine) []string {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return []string{self, "bmc", "--socket", m.BMCSocket, "--qmp", m.LabQMP, "--info", m.BMCInfo()}
}

func serveBMC(ctx context.Context, socket, monitor, info string) error {
	link := new(oob.VMLink)
	user := oob.User{Name: "lab", Password: rand.Text()[:16]}
	b, err := oob.New(oob.Options{
		Users: []oob.User{user},
		Power: oob.QMPPower{Socket: monitor, Link: link},
		Link:  link,
	})
	if err != nil {
		return err
	}
	lan, err := b.ListenLAN("127.0.0.1:0")
	if err != nil {
		return err
	}
	login, err := json.Marshal(lab.BMC{Address: lan.Address(), Username: user.Name, Password: user.Password})
	if err != nil {
		return err
	}
	if err := os.WriteFile(info, login, 0o600); err != nil {
		return err
	}
	listener, err := listenPrivate(socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- lan.Serve(ctx) }()
	go func() { ended <- b.ServeVM(ctx, listener) }()
	first := <-ended
	cancel()
	return errors.Join(first, <-ended)
}

// listenPrivate listens on a Unix socket that only this user can reach. The
// directory is the machine's own; the mask closes the moment before chmod.
func listenPrivate(path string) (net.Listener, error) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	return net.Listen("unix", filepath.Clean(path))
}
