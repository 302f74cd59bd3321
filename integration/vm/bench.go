package main

import (
	"context"
	"strings"

	"github.com/cordonhq/cordon/integration/vm/stream"
)

// benchName is the program that measures what attacks cost others.
const benchName = "bench-quotas"

// buildBench builds it and gives the tier that runs it.
func buildBench(ctx context.Context, o options, built string) ([]stream.Tier, error) {
	flags, env := way{}.static()
	cmd := command(ctx, "go", append(append([]string{"build"}, flags...), "-o", built+"/"+benchName, "./integration/bench/quotas")...)
	cmd.Env = env
	if _, err := output(cmd); err != nil {
		return nil, err
	}
	argv := append([]string{tests + "/" + benchName, "-bin", programs}, strings.Fields(o.bench)...)
	return []stream.Tier{{Name: benchName, Dir: home, Argv: argv}}, nil
}

// benchLine is a line of the bench's with the kernel that it was measured on:
// figures are named for it.
func benchLine(kernel, text string) string {
	if name, ok := strings.CutPrefix(text, "figure "); ok {
		return "figure linux_" + kernel + "_" + name
	}
	return kernel + ": " + strings.TrimPrefix(text, "\x16")
}
