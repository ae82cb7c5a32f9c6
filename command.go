package aventusauth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/aventus-platform/caddy-aventus-auth/internal/doctor"
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
			list := &cobra.Command{
				Use: "sessions", Short: "Lists the sessions in the storage, as JSON", Args: cobra.NoArgs,
			}
			list.RunE = caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
				return askAdmin(fl, http.MethodGet, adminPath, list.OutOrStdout())
			})
			revoke := &cobra.Command{Use: "revoke", Short: "Ends one session, or all of a user's", Args: cobra.NoArgs}
			revoke.Flags().String("id", "", "The id of the session to end")
			revoke.Flags().String("sub", "", "The subject (sub) of the user whose sessions are to end")
			revoke.MarkFlagsOneRequired("id", "sub")
			revoke.MarkFlagsMutuallyExclusive("id", "sub")
			revoke.RunE = caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
				return revokeByCommand(fl, revoke.OutOrStdout())
			})
			for _, sub := range []*cobra.Command{list, revoke} {
				sub.Flags().String("address", "",
					"Address of the administration API listener (if --config is not used)")
				sub.Flags().StringP("config", "c", "", "Configuration file (if --address is not used)")
				sub.Flags().StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
				cmd.AddCommand(sub)
			}
			cmd.AddCommand(doctor.Command(forDoctor()))
			// Cobra would answer what it does not know with the help, and with success.
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) == 0 {
					return cmd.Help()
				}
				hint := ""
				if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
					hint = fmt.Sprintf("; did you mean %s?", near[0])
				}
				return fmt.Errorf("there is no command %q%s", args[0], hint)
			}
			cmd.SuggestionsMinimumDistance = 2
			cmd.FParseErrWhitelist.UnknownFlags = true // those of the command that was meant
		},
	})
}

// revokeByCommand ends sessions, and says how many of those in the storage: in cookies, nothing
// can count them, and whoever misspells a user would not see it otherwise.
func revokeByCommand(fl caddycmd.Flags, out io.Writer) (int, error) {
	id, sub := fl.String("id"), fl.String("sub")
	if id != "" {
		code, err := askAdmin(fl, http.MethodDelete, adminPath+"?"+url.Values{"id": {id}}.Encode(), out)
		if err == nil {
			_, err = fmt.Fprintln(out, "The session has ended.")
		}
		return code, err
	}
	// What has ended is listed no more, so they are counted before. The end itself needs no record.
	theirs, uncounted := countSessions(fl, sub)
	code, err := askAdmin(fl, http.MethodDelete, adminPath+"?"+url.Values{"sub": {sub}}.Encode(), out)
	switch {
	case err != nil:
	case uncounted != nil:
		_, err = fmt.Fprintf(out, "All sessions of %q have ended, in the storage and in cookies. "+
			"How many is not known, since those in the storage could not be counted: %v\n", sub, uncounted)
	default:
		_, err = fmt.Fprintf(out, "Sessions of %q in the storage: %d have ended. "+
			"Any in cookies, which cannot be counted, have ended, too.\n", sub, theirs)
	}
	return code, err
}

// countSessions returns how many sessions of a user are in the storage.
func countSessions(fl caddycmd.Flags, sub string) (int, error) {
	var list bytes.Buffer
	if _, err := askAdmin(fl, http.MethodGet, adminPath, &list); err != nil {
		return 0, err
	}
	var sessions []listed
	if err := json.Unmarshal(list.Bytes(), &sessions); err != nil {
		return 0, err
	}
	theirs := 0
	for _, s := range sessions {
		if s.Sub == sub {
			theirs++
		}
	}
	return theirs, nil
}

// askAdmin sends a request to the admin API of a running Caddy, and prints the answer.
func askAdmin(fl caddycmd.Flags, method, uri string, out io.Writer) (int, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"),
		fl.String("adapter"))
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
