package aventustest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// FreeAddr returns an address on loopback that nothing is bound to, for a server that
// cannot be handed a socket. Its port is one of those that the system gives to no
// connection and no listener by itself, and no call returns another's, which may not
// have been bound yet.
func FreeAddr() (string, error) {
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if _, given := givenAddrs.LoadOrStore(addr, true); given {
			continue
		}
		if l, err := net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", errors.New("no port is free")
}

// givenAddrs are those that FreeAddr has returned, or found taken.
var givenAddrs sync.Map
