package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/cgroups/v1"
)

// maxForm bounds a limit on standard input, in bytes.
const maxForm = 64 << 10

// setLimit is for cordon, which does not link the library: a cgroups.Form as
// JSON on standard input.
func setLimit(in io.Reader) *cobra.Command {
	return &cobra.Command{
		Use: "set-limit", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			data, err := io.ReadAll(io.LimitReader(in, maxForm+1))
			if err != nil {
				return fmt.Errorf("cannot read the limit: %w", err)
			}
			if len(data) > maxForm {
				return fmt.Errorf("cannot read the limit: more than %d bytes", maxForm)
			}
			var f cgroups.Form
			if err := json.Unmarshal(data, &f); err != nil {
				return fmt.Errorf("cannot read the limit: %w", err)
			}
			return setForm(f)
		},
	}
}

// setForm sets f by the library.
func setForm(f cgroups.Form) error {
	if err := f.Check(); err != nil {
		return fmt.Errorf("cannot set the limit: %w", err)
	}
	if f.Cpus != "" {
		return v1.Cpuset(f.Base, f.Group, f.Cpus)
	}
	return v1.Throttle(f.Base, f.Group, f.Major, f.Minor, v1.Rates(f.IO))
}
