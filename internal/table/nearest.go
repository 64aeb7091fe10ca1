package table

import "strings"

// Nearest returns the name that a mistyped one most likely stands for: one that
// goes on from it, else the one with the fewest edits if those are few.
func Nearest(typed string, names []string) string {
	typed = strings.ToUpper(typed)
	best, fewest := "", 1+len(typed)/3
	for _, name := range names {
		upper := strings.ToUpper(name)
		if len(typed) > 1 && strings.HasPrefix(upper, typed) {
			return name
		}
		if edits := distance(typed, upper); edits <= fewest {
			best, fewest = name, edits-1
		}
	}
	return best
}

// distance counts the insertions, deletions and substitutions of single bytes
// that turn one word into the other.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
