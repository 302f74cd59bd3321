package main

import (
	"os/exec"
	"testing"
)

// TestVagrantfileIsValid asks Vagrant itself, where it is installed.
func TestVagrantfileIsValid(t *testing.T) {
	vagrant, err := exec.LookPath("vagrant")
	if err != nil {
		t.Skip("skipped: needs vagrant")
	}
	cmd := exec.Command(vagrant, "validate", "--ignore-provider")
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "VAGRANT_HOME="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
