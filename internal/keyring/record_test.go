package keyring

import (
	"bytes"
	"errors"
	"testing"
)

// TestRecordKey: a key of any other size neither seals nor opens a record.
func TestRecordKey(t *testing.T) {
	key := bytes.Repeat([]byte("k"), RecordKeySize)
	good, err := SealRecord(key, []byte("text"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range [][]byte{nil, key[1:], append(key, 'k')} {
		if sealed, err := SealRecord(other, []byte("text"), nil); sealed != nil || err == nil {
			t.Errorf("%d bytes: sealed %q, error %v", len(other), sealed, err)
		}
		if plaintext, err := OpenRecord(other, good, nil); plaintext != nil || !errors.Is(err, ErrInvalid) {
			t.Errorf("%d bytes: opened %q, error %v", len(other), plaintext, err)
		}
	}
}
