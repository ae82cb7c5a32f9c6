// Command zitadel is the example server of github.com/zitadel/oidc over TLS, with one client:
//
//	zitadel <port> <certificate> <key> <client secret> <redirect URI>
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
)

func main() {
	port, cert, key, secret, redirectURI := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	issuer := "https://localhost:" + port + "/"
	storage.RegisterClients(storage.WebClient("the-client", secret, redirectURI))
	server := exampleop.SetupServer(issuer, storage.NewStorage(storage.NewUserStore(issuer)), nil, false)
	log.Fatal(http.ListenAndServeTLS("127.0.0.1:"+port, cert, key, server))
}
