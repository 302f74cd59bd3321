package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestGuideWorks runs the commands of docs/first-profile.md, in directories of
// its own, and the program works behind the profile that they make.
func TestGuideWorks(t *testing.T) {
	page, err := os.ReadFile("../docs/first-profile.md")
	if err != nil {
		t.Fatal(err)
	}
	dir, work := rootOnly(t), t.TempDir()
	report, profile := filepath.Join(work, "report"), filepath.Join(work, "words.toml")
	var story strings.Builder
	for _, block := range regexp.MustCompile("(?s)```\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		cmd := exec.Command("/bin/sh", "-c", strings.ReplaceAll(block[1], "/srv/words", dir))
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "CORDON_CGROUP_ROOT=cordon-it-profiles")
		out, err := cmd.CombinedOutput()
		story.WriteString("$ " + block[1] + string(out))
		if err != nil {
			story.WriteString(err.Error() + "\n") // some are refused, and say so
		}
	}
	out, err := cordonRun(t, "--profile", profile, "--report", report, "--", "/usr/bin/python3", dir+"/count.py")
	number, _ := os.ReadFile(filepath.Join(dir, "out/number"))
	if err != nil || strings.TrimSpace(out) != "3" || string(number) != "3" {
		t.Errorf("%v: %s\n%s", err, out, story.String())
	}
	if !strings.Contains(story.String(), "no: words cannot write "+dir+"/in/text") {
		t.Errorf("the last answer is not no:\n%s", story.String())
	}
}
