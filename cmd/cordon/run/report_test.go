package run

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCreateReport(t *testing.T) {
	name := filepath.Join(t.TempDir(), "r")
	r, err := CreateReport(name)
	if err != nil {
		t.Fatal(err)
	}
	r.write(map[string]string{"kind": "result"})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if _, err := CreateReport(filepath.Join(name, "x")); err == nil || !strings.Contains(err.Error(), "cannot write the report: ") {
		t.Errorf("below a file: %v", err)
	}
	full, err := CreateReport("/dev/full")
	if err != nil {
		t.Skipf("needs /dev/full: %v", err)
	}
	full.write(1)
	if err := full.Close(); err == nil {
		t.Error("a report that could not be written was taken for written")
	}
	var none *Report
	none.write(1)
	if err := none.Close(); err != nil {
		t.Errorf("no report: %v", err)
	}
}

func TestReadReport(t *testing.T) {
	violations, result, err := ReadReport(strings.NewReader(`{"kind":"violation","wall":"seccomp","call":"mount"}
{"kind":"later"}
{"kind":"result","status":137,"signal":"SIGKILL"}
`))
	if err != nil || len(violations) != 1 || violations[0].Call != "mount" || result == nil || result.Status != 137 {
		t.Errorf("got %+v, %+v, %v", violations, result, err)
	}
	if _, result, err := ReadReport(strings.NewReader("")); result != nil || err != nil {
		t.Errorf("an empty report: %+v, %v", result, err)
	}
	for text, want := range map[string]string{
		"x":                             "line 1: expected a JSON object",
		"{}\n":                          "line 1: expected a JSON object",
		"{\"kind\":\"a\"}\n[]":          "line 2: expected a JSON object",
		`{"kind":"violation","args":1}`: "line 1: not what cordon run",
		strings.Repeat("x", maxLine+1):  "token too long",
		strings.Repeat("{\"kind\":\"a\"}\n", maxLines+1): "at most 100000 lines",
	} {
		if _, _, err := ReadReport(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzReadReport(f *testing.F) {
	f.Add(`{"kind":"violation","wall":"files","path":"/etc/shadow","where":{"pid":1}}`)
	f.Add("{\"kind\":\"result\",\"exit_code\":0,\"walls\":[{\"name\":\"seccomp\"}]}\n{\"kind\":\"x\"}")
	f.Add("{\"kind\":\"violation\",\"raw_args\":[18446744073709551615]}")
	f.Fuzz(func(t *testing.T, text string) {
		violations, result, err := ReadReport(strings.NewReader(text))
		if err != nil && (violations != nil || result != nil) {
			t.Error("an error came with half a report")
		}
		if len(violations) > strings.Count(text, "\n")+1 {
			t.Errorf("%d violations on fewer lines", len(violations))
		}
	})
}
