package integration

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/supervisor/control"
)

// TestHostFunctions: an application serves functions to the plugins that were
// granted them, while it is there; one that never answers holds up no other.
func TestHostFunctions(t *testing.T) {
	d := startDaemon(t)
	d.profile("asker", "extends = [\"builtin:python\"]\n[[capability]]\nname = \"host.call\"\ntarget = [\"shop.*\"]\n")
	d.must("install", asker(t, `
[[capability]]
name = "host.call"
why = "the shop's functions"
`), "--profile", "asker")
	d.must("start", "asker")
	price := map[string]any{"function": "shop.price", "params": map[string]any{"item": "tea"}}
	if a := d.ask("host.call", price); a.Code != -32010 {
		t.Errorf("before anyone serves it: %+v", a)
	}
	app, err := control.Dial(t.Context(), d.dir+"/run/cordon.sock")
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	ended, stuck := make(chan error, 1), make(chan struct{}, 16)
	schema := json.RawMessage(`{"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}`)
	number := json.RawMessage(`{"type": "number"}`)
	go func() {
		ended <- app.Serve(ctx, []control.Function{
			{Name: "shop.price", Params: schema, Result: number},
			{Name: "shop.stuck", Params: schema, Result: number},
			{Name: "bank.pay", Params: schema, Result: number},
		}, func(ctx context.Context, c control.FunctionCall) (any, error) {
			if c.Function == "shop.stuck" {
				stuck <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			}
			if c.Plugin != "asker" {
				return nil, errors.New("who is that?")
			}
			return 4.5, nil
		})
	}()
	d.eventually("the functions are served", func() bool { return string(d.ask("host.call", price).Result) == "4.5" })
	if a := d.ask("host.call", map[string]any{"function": "shop.price", "params": map[string]any{"item": 1}}); a.Code != -32007 {
		t.Errorf("params against its contract: %+v", a)
	}
	if a := d.ask("host.call", map[string]any{"function": "bank.pay", "params": map[string]any{"item": "me"}}); a.Code != -32011 || !strings.Contains(d.must("why", "asker"), "The grants refused host.call bank.pay") {
		t.Errorf("a function that is not granted: %+v", a)
	}
	late := make(chan string, 1)
	go func() {
		out, err := d.cordon("call", "asker", "do", `{"method": "host.call", "params": {"function": "shop.stuck", "params": {"item": "x"}}}`)
		late <- out + " " + errText(err)
	}()
	<-stuck
	if a := d.ask("host.call", price); string(a.Result) != "4.5" {
		t.Errorf("while another function never answers: %+v", a)
	}
	if out := <-late; !strings.Contains(out, "did not answer within") {
		t.Errorf("one that never answers comes to %s", out)
	}
	if a := d.ask("host.call", price); string(a.Result) != "4.5" {
		t.Errorf("after that: %+v", a)
	}
	leave()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	d.eventually("its functions are withdrawn", func() bool { return d.ask("host.call", price).Code == -32010 })
	d.eventually("the audit log says who served what to whom", func() bool {
		log := d.audited()
		return strings.Contains(log, "asker used host.call shop.price: served") && strings.Contains(log, `"kind":"serving"`) && strings.Contains(log, `"kind":"withdrawn"`)
	})
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
