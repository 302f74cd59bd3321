package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/seccomp/compile"
)

// maxFilter bounds a filter spec on standard input, in bytes.
const maxFilter = 1 << 20

// compileFilter is for cordon, which does not link libseccomp: a filter spec as
// JSON on standard input, the BPF program on standard output.
func compileFilter(in io.Reader, out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "compile-filter", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			program, err := compiled(in)
			if err != nil {
				return err
			}
			if _, err := out.Write(program); err != nil {
				return fmt.Errorf("cannot write the program: %w", err)
			}
			return nil
		},
	}
}

func compiled(in io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxFilter+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the filter: %w", err)
	}
	if len(data) > maxFilter {
		return nil, fmt.Errorf("cannot read the filter: more than %d bytes", maxFilter)
	}
	var f seccomp.Filter
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("cannot read the filter: %w", err)
	}
	if err := f.Validate(); err != nil {
		return nil, err
	}
	return compile.Compile(f)
}
