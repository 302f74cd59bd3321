package audit

import (
	"encoding/json"
	"slices"
	"strconv"

	"github.com/cordonhq/cordon/supervisor/control"
)

// appendLine appends the bytes that encoding/json gives of a line, in a fraction
// of its time: records are many. data is encoded already, or empty.
func appendLine(out []byte, ev control.Event, data, prev []byte) ([]byte, error) {
	out = strconv.AppendUint(append(out, `{"seq":`...), ev.Seq, 10)
	out, err := ev.Time.AppendText(append(out, `,"time":"`...))
	out = append(out, '"')
	for _, field := range []struct {
		name, value string
		always      bool
	}{
		{`,"plugin":`, ev.Plugin, false}, {`,"kind":`, ev.Kind, true}, {`,"actor":`, ev.Actor, false}, {`,"text":`, ev.Text, true},
	} {
		if err == nil && (field.always || field.value != "") {
			out, err = appendString(append(out, field.name...), field.value)
		}
	}
	if len(data) > 0 {
		out = append(append(out, `,"data":`...), data...)
	}
	return append(append(append(out, `,"prev":"`...), prev...), '"', '}'), err
}

// appendData does so with a record's data.
func appendData(out []byte, data map[string]any) ([]byte, error) {
	var room [16]string // more than most have
	keys := room[:0]
	for k := range data {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out = append(out, '{')
	for i, k := range keys {
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = appendString(out, k); err != nil {
			return nil, err
		}
		if out, err = appendValue(append(out, ':'), data[k]); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

func appendValue(out []byte, value any) ([]byte, error) {
	switch v := value.(type) {
	case string:
		return appendString(out, v)
	case bool:
		return strconv.AppendBool(out, v), nil
	case int:
		return strconv.AppendInt(out, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(out, v, 10), nil
	case uint64:
		return strconv.AppendUint(out, v, 10), nil
	}
	text, err := json.Marshal(value)
	return append(out, text...), err
}

// appendString quotes text; what encoding/json would escape is left to it.
func appendString(out []byte, text string) ([]byte, error) {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(text)
			return append(out, quoted...), err
		}
	}
	return append(append(append(out, '"'), text...), '"'), nil
}
