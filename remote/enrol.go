package remote

// Role says what an enrolled agent may report.
type Role string

// Roles. A host reports about itself and about the targets it measures from
// outside; a guest reports its own boot only.
const (
	RoleHost  Role = "host"
	RoleGuest Role = "guest"
)

// EnrolRequest is the body of POST /v1/enrol, the only agent request made
// without a client certificate.
type EnrolRequest struct {
	Name string `json:"name"` // see CheckName
	Role Role   `json:"role"`
	// EKCertificates are X.509 in DER: the endorsement key's certificate
	// first, then its issuers as far as the TPM holds them. Empty when the
	// TPM has none; the verifier then needs the digest list or an operator.
	EKCertificates [][]byte `json:"ek_certificates,omitempty"`
	EKPublic       []byte   `json:"ek_public"` // TPMT_PUBLIC (TPM 2.0 part 2, 12.2.4)
	AKPublic       []byte   `json:"ak_public"` // TPMT_PUBLIC
	CSR            []byte   `json:"csr"`       // PKCS #10 in DER, self-signed by the agent's TLS key
}

// EnrolChallenge answers an EnrolRequest. Only the TPM that holds both keys
// can turn it into the secret (TPM2_ActivateCredential, part 3, 12.5).
type EnrolChallenge struct {
	ID string `json:"id"`
	// CredentialBlob and EncryptedSecret are the contents of TPM2B_ID_OBJECT
	// and TPM2B_ENCRYPTED_SECRET, without their size fields.
	CredentialBlob  []byte `json:"credential_blob"`
	EncryptedSecret []byte `json:"encrypted_secret"`
}

// EnrolAnswer is the body of POST /v1/enrol/{id}. It may be repeated: while an
// operator has not decided, the same answer gets EnrolWaiting again.
type EnrolAnswer struct {
	Secret []byte `json:"secret"`
}

// EnrolState says how far an enrolment is.
type EnrolState string

// States of an enrolment.
const (
	EnrolWaiting EnrolState = "waiting" // proven, an operator must approve; ask again later
	EnrolDone    EnrolState = "enrolled"
	EnrolRefused EnrolState = "refused"
)

// EnrolResult answers an EnrolAnswer. Certificate and CA are set when State is
// EnrolDone.
type EnrolResult struct {
	State       EnrolState `json:"state"`
	Reason      string     `json:"reason,omitempty"`
	Certificate []byte     `json:"certificate,omitempty"` // PEM, the agent's client certificate
	CA          []byte     `json:"ca,omitempty"`          // PEM, the verifier's authority
}
