package aventusauth

import (
	"io"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "aventus-auth",
		Usage: "sessions | revoke (--id <id> | --sub <subject>) | doctor",
		Short: "Lists and ends the sessions of aventus_auth, and examines its config",
		Long: `
Lists the sessions that rest in the storage of a running Caddy, and ends one of
them, or every session of a user, wherever it rests.

Sessions that rest in their cookies cannot be listed, since nothing else knows of
them, but a user's are ended all the same.

The doctor says what keeps logins from working.`,
		CobraFunc: func(cmd *cobra.Command) {
			list := &cobra.Command{Use: "sessions", Short: "Lists the sessions in the storage, as JSON", Args: cobra.NoArgs}
			list.RunE = caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
				return askAdmin(fl, http.MethodGet, adminPath, list.OutOrStdout())
			})
			revoke := &cobra.Command{Use: "revoke", Short: "Ends one session, or all of a user's", Args: cobra.NoArgs}
			revoke.Flags().String("id", "", "The id of the session to end")
			revoke.Flags().String("sub", "", "The subject (sub) of the user whose sessions are to end")
			revoke.MarkFlagsOneRequired("id", "sub")
			revoke.MarkFlagsMutuallyExclusive("id", "sub")
			revoke.RunE = caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
				query := url.Values{}
				for _, name := range []string{"id", "sub"} {
					if value := fl.String(name); value != "" {
						query.Set(name, value)
					}
				}
				return askAdmin(fl, http.MethodDelete, adminPath+"?"+query.Encode(), revoke.OutOrStdout())
			})
			for _, sub := range []*cobra.Command{list, revoke} {
				sub.Flags().String("address", "", "Address of the administration API listener (if --config is not used)")
				sub.Flags().StringP("config", "c", "", "Configuration file (if --address is not used)")
				sub.Flags().StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
				cmd.AddCommand(sub)
			}
			cmd.AddCommand(doctorCommand())
		},
	})
}

// askAdmin sends a request to the admin API of a running Caddy, and prints the answer.
func askAdmin(fl caddycmd.Flags, method, uri string, out io.Writer) (int, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	resp, err := caddycmd.AdminAPIRequest(address, method, uri, nil, nil)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(out, resp.Body)
	return caddy.ExitCodeSuccess, err
}
