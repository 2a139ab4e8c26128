package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
)

// Headers of a webhook. The signature is "v1=" and, in hexadecimal, the
// HMAC-SHA-256 under the shared secret of the timestamp (seconds since 1970),
// a dot, and the body.
const (
	HeaderTimestamp = "Plumbline-Timestamp"
	HeaderSignature = "Plumbline-Signature"
)

const webhookTimeout = 10 * time.Second

// Sign is the value of HeaderSignature.
func Sign(secret, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	return "v1=" + hex.EncodeToString(mac.Sum(nil))
}

func newWebhook(target *url.URL, secret string) (func(context.Context, remote.Moment) error, error) {
	if target.Scheme != "https" && target.Scheme != "http" || target.Host == "" {
		return nil, fmt.Errorf("%w: webhook URL %q, want https://HOST/PATH", ErrOptions, target.Redacted())
	}
	if len(secret) < 16 {
		return nil, fmt.Errorf("%w: a webhook needs a secret of at least 16 bytes", ErrOptions)
	}
	client := &http.Client{Timeout: webhookTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a redirect is an error: the secret was given for one place
	}}
	return func(ctx context.Context, m remote.Moment) error {
		body, err := json.Marshal(m)
		if err != nil {
			return fmt.Errorf("encode alert: %w", err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(body))
		if err != nil {
			return err
		}
		now := strconv.FormatInt(time.Now().Unix(), 10)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(HeaderTimestamp, now)
		req.Header.Set(HeaderSignature, Sign(secret, now, body))
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("webhook: %w", err)
		}
		resp.Body.Close()
		if resp.StatusCode < 200 || resp.StatusCode > 299 {
			return fmt.Errorf("webhook: %s answered %s", target.Redacted(), resp.Status)
		}
		return nil
	}, nil
}
