package sign

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// AgentKey is a key that an SSH agent holds.
type AgentKey struct {
	socket string
	ssh    ssh.PublicKey
	public PublicKey
}

// agentTimeout bounds one exchange: an agent may ask its user first.
const agentTimeout = 2 * time.Minute

// OpenAgentKey finds the key with a fingerprint ("SHA256:...", as ssh-add -l
// shows it) or a comment in the SSH agent at a unix socket. Only one key may
// match. The agent is asked anew for each signature.
func OpenAgentKey(socket, name string) (*AgentKey, error) {
	if socket == "" {
		return nil, fmt.Errorf("%w: no SSH agent (SSH_AUTH_SOCK is not set)", ErrNoKey)
	}
	k := &AgentKey{socket: socket}
	err := k.ask(func(a agent.ExtendedAgent) error {
		keys, err := a.List()
		if err != nil {
			return err
		}
		var found []*agent.Key
		for _, key := range keys {
			if ssh.FingerprintSHA256(key) == name || strings.EqualFold(ssh.FingerprintLegacyMD5(key), strings.TrimPrefix(name, "MD5:")) || key.Comment == name {
				found = append(found, key)
			}
		}
		if len(keys) == 0 {
			return fmt.Errorf("%w: the agent holds no keys, or is locked", ErrNoKey)
		}
		if len(found) != 1 {
			return fmt.Errorf("%w: %d of the agent's %d keys are %q", ErrNoKey, len(found), len(keys), name)
		}
		k.ssh, err = ssh.ParsePublicKey(found[0].Blob)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("SSH agent: %w", err)
	}
	if k.public, err = cryptoKey(k.ssh); err != nil {
		return nil, fmt.Errorf("SSH agent: %w", err)
	}
	if err := CheckKey(k.public); err != nil {
		return nil, fmt.Errorf("SSH agent: %w", err)
	}
	return k, nil
}

func (k *AgentKey) ask(question func(agent.ExtendedAgent) error) error {
	conn, err := net.Dial("unix", k.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(agentTimeout)); err != nil {
		return err
	}
	return question(agent.NewClient(conn))
}

// Public implements [Signer].
func (k *AgentKey) Public() PublicKey { return k.public }

// Sign implements [Signer]. An RSA key signs with SHA-512, never with SHA-1.
func (k *AgentKey) Sign(message []byte) ([]byte, error) {
	var sig *ssh.Signature
	err := k.ask(func(a agent.ExtendedAgent) (err error) {
		var flags agent.SignatureFlags
		if k.ssh.Type() == ssh.KeyAlgoRSA {
			flags = agent.SignatureFlagRsaSha512
		}
		sig, err = a.SignWithFlags(k.ssh, message, flags)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("SSH agent: %w", err)
	}
	switch sig.Format {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoRSASHA512:
		return sig.Blob, nil
	case ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		var pair struct{ R, S *big.Int } // RFC 5656, 3.1.2
		if err := ssh.Unmarshal(sig.Blob, &pair); err != nil {
			return nil, fmt.Errorf("SSH agent: %w", err)
		}
		return asn1.Marshal(pair)
	}
	return nil, errors.New("SSH agent: signed as " + sig.Format + ", which is not used here")
}
