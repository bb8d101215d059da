package dockerfile

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/solver/pb"
)

// rename makes the text of a check again with name as that of the Dockerfile: the frontend knows it only
// by its last element.
func rename(answer map[string][]byte, name string) error {
	text := answer["result.json"]
	if name == "" || text == nil {
		return nil
	}
	var found lint.LintResults
	if err := json.Unmarshal(text, &found); err != nil {
		return fmt.Errorf("the answer of the check: %w", err)
	}
	var b bytes.Buffer
	err := found.PrintTo(&b, func(s *pb.SourceInfo) *pb.SourceInfo {
		return &pb.SourceInfo{Filename: name, Data: s.GetData(), Definition: s.GetDefinition(), Language: s.GetLanguage()}
	})
	answer["result.txt"] = b.Bytes()
	return err
}
