package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
)

// maxParams bounds the parameters of a call: the largest frame of the protocol.
const maxParams = 16<<20 - 1

func callVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "call NAME METHOD [JSON]", Short: "Call a method of a running plugin",
		Long: `Call a method of a running plugin and print its result as JSON.

JSON are the parameters, an object or an array; - reads them from standard input.
An error that the plugin answers is printed, with --json as JSON on standard
output too, and the exit status is 1.`,
		Example: `  cordon call thumbs tools/list
  cordon call thumbs tools/call '{"name": "echo", "arguments": {"message": "hi"}}'
  cordon call thumbs render - <request.json --timeout 2m`,
		GroupID: groupLook, Args: callArgs, ValidArgsFunction: a.completeName,
	}
	timeout := cmd.Flags().Duration("timeout", 0, "give up after this `duration`; 0 is the profile's call_timeout")
	asJSON := cmd.Flags().Bool("json", false, "print the result on one line")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *timeout < 0 {
			return usage(cmd, "--timeout must not be negative")
		}
		params, err := a.callParams(cmd, args, *timeout)
		if err != nil {
			return err
		}
		var result json.RawMessage
		if err := a.call(cmd.Context(), control.MethodCall, params, &result); err != nil {
			return a.callError(args[0], err, *asJSON)
		}
		if !*asJSON {
			result = indentJSON(result)
		}
		_, err = fmt.Fprintf(a.out, "%s\n", safeJSON(result))
		return err
	}
	return cmd
}

// callError tells the plugin's own answer from what went wrong on the way.
func (a *app) callError(name string, err error, asJSON bool) error {
	var answer *control.Error
	switch {
	case !errors.As(err, &answer):
		return err
	case answer.FromPlugin:
		if asJSON {
			if err := printJSON(a.out, map[string]any{"error": rpcError{answer.Code, answer.Message, answer.Data}}); err != nil {
				return err
			}
		}
		return fmt.Errorf("%s answered with error %d: %w", cellText(name), answer.Code, err)
	case answer.Code == ipc.CodePluginGone && answer.Hint == "":
		return &failure{err, "see cordon why " + cellText(name) + " and cordon ps", exitFailure}
	}
	return err
}

// rpcError is an error as JSON-RPC has it.
type rpcError struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data,omitempty"`
}

func callArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 2 {
		return takes("NAME", "METHOD", "JSON")(cmd, args)
	}
	return takes("NAME", "METHOD")(cmd, args)
}

// callParams reads the parameters of a call.
func (a *app) callParams(cmd *cobra.Command, args []string, timeout time.Duration) (control.CallParams, error) {
	p := control.CallParams{Name: args[0], Method: args[1], Timeout: timeout}
	if len(args) < 3 {
		return p, nil
	}
	text := []byte(args[2])
	if args[2] == "-" {
		var err error
		if text, err = io.ReadAll(io.LimitReader(a.in, maxParams+1)); err != nil {
			return p, fmt.Errorf("cannot read the parameters: %w", err)
		}
	}
	if len(text) > maxParams {
		return p, usage(cmd, fmt.Sprintf("the parameters are longer than %d bytes", maxParams))
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return p, usage(cmd, "the parameters are not JSON: "+err.Error())
	}
	switch value.(type) {
	case map[string]any, []any:
	default:
		return p, usage(cmd, "the parameters must be a JSON object or array")
	}
	p.Params = text
	return p, nil
}
