package table

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape makes text from outside (a device's name, a path, a command) safe on a
// terminal: what does not print, invalid UTF-8, and a backslash that would look
// like an escape become \xNN, byte by byte, as lsblk writes them.
func Escape(s string) string { return escape(s, "") }

// escape does that, and to the ASCII characters in special as well.
func escape(s, special string) string {
	if isClean(s, special) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		char := s[i : i+size]
		if mustEscape(r, size, s[i+size:], special) {
			for j := range len(char) {
				fmt.Fprintf(&out, `\x%02x`, char[j])
			}
		} else {
			out.WriteString(char)
		}
		i += size
	}
	return out.String()
}

// isClean is the common case: printable ASCII that needs no look at its neighbours.
func isClean(s, special string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '\\' || strings.IndexByte(special, c) >= 0 {
			return false
		}
	}
	return true
}

func mustEscape(r rune, size int, rest, special string) bool {
	switch {
	case r == utf8.RuneError && size == 1:
		return true
	case r == '\\' && strings.HasPrefix(rest, "x"):
		return true
	}
	return !unicode.IsPrint(r) || strings.ContainsRune(special, r)
}

// escapeJSON replaces what encoding/json lets through and a terminal obeys:
// DEL and the control characters from U+0080 to U+009F.
func escapeJSON(encoded []byte) []byte {
	out := make([]byte, 0, len(encoded))
	for len(encoded) > 0 {
		r, size := utf8.DecodeRune(encoded)
		if r >= 0x7f && r < 0xa0 {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = append(out, encoded[:size]...)
		}
		encoded = encoded[size:]
	}
	return out
}
