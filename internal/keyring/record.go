package keyring

import (
	"crypto/rand"

	"golang.org/x/crypto/chacha20poly1305"
)

// RecordKeySize is the size of the key of one record.
const RecordKeySize = chacha20poly1305.KeySize

// SealRecord seals a record of the storage with a key that is not in the storage, but in
// the browser's cookie. So a copy of the storage opens nothing.
func SealRecord(key, plaintext, associated []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(plaintext)+
		chacha20poly1305.Overhead)
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	return aead.Seal(nonce, nonce, plaintext, associated), nil
}

// OpenRecord opens what SealRecord sealed, or returns ErrInvalid and nothing else.
func OpenRecord(key, sealed, associated []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil || len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, ErrInvalid
	}
	nonce, ciphertext := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	plaintext, err := aead.Open(nil, nonce, ciphertext, associated)
	if err != nil {
		return nil, ErrInvalid
	}
	return plaintext, nil
}
