package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/cmd/cordon/scaffold"
	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles/strict"
	"github.com/cordonhq/cordon/supervisor/violation"
)

func newVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "new NAME --lang LANG", Short: "Make a new plugin that works, with a test",
		Long: `Make the directory NAME with a new plugin: a manifest, one method, a test that
needs no daemon, and a copy of the SDK, so that nothing is downloaded. LANG is
go, node or python.`,
		Example: `  cordon new --lang python words
  cordon new --lang go acme.thumbs`,
		GroupID: groupAlone, Args: takes("NAME"),
	}
	lang := cmd.Flags().String("lang", "", "the `language`: "+strings.Join(scaffold.Languages(), ", "))
	if err := cmd.RegisterFlagCompletionFunc("lang", cobra.FixedCompletions(scaffold.Languages(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // there is such a flag: two lines up
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.makeNew(cmd, args[0], *lang)
	}
	return cmd
}

func (a *app) makeNew(cmd *cobra.Command, name, lang string) error {
	if err := checkLang(cmd, lang); err != nil {
		return err
	}
	if !manifest.ValidName(name) {
		return usage(cmd, fmt.Sprintf("a plugin cannot have the name %q: expected up to 64 lower-case letters, digits, '.', '-' and '_', a letter or digit first", violation.Escape(name, 64)))
	}
	files, err := scaffold.Files(lang, name)
	if err != nil {
		return err
	}
	if err := scaffold.Write(name, files); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "made %s, a plugin in %s; next:\n  cd %s\n%s  sudo cordon install . --profile %s\n  sudo cordon start %s\n  sudo cordon call %s greet '{\"name\": \"Ada\"}'\n",
		filepath.Clean(name), lang, name, firstSteps[lang], lang, name, name)
	return err
}

// firstSteps test a new plugin, and build it where it must be.
var firstSteps = map[string]string{
	"go":     "  go test ./...\n  CGO_ENABLED=0 go build -o bin/plugin .\n",
	"node":   "  node --test\n",
	"python": "  python3 -m unittest\n",
}

func checkLang(cmd *cobra.Command, lang string) error {
	known := scaffold.Languages()
	switch {
	case lang == "":
		return usage(cmd, "there is no --lang: expected "+strings.Join(known, ", "))
	case !slices.Contains(known, lang):
		text := fmt.Sprintf("there is no SDK for %q: expected %s", violation.Escape(lang, 64), strings.Join(known, ", "))
		if near := strict.Nearest(lang, known); near != "" {
			text += fmt.Sprintf("; did you mean %s?", near)
		}
		return usage(cmd, text)
	}
	return nil
}
