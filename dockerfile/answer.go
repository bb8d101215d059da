package dockerfile

import (
	"bytes"
	"encoding/json"
	"errors"
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

// wrong returns why, as a check says, the Dockerfile cannot be built: an *Error if the check says where. name is as for rename.
func wrong(answer map[string][]byte, name string) error {
	var found lint.LintResults
	if err := json.Unmarshal(answer["result.json"], &found); err != nil {
		return fmt.Errorf("the answer of the check: %w", err)
	}
	if found.Error == nil {
		return nil
	}
	err := &invalidError{errors.New(found.Error.Message)}
	if i := int(found.Error.Location.GetSourceIndex()); i >= 0 && i < len(found.Sources) {
		if where := location(found.Sources[i], found.Error.Location.GetRanges()); where.Start > 0 {
			if name != "" {
				where.File = name
			}
			return &Error{Where: where, Err: err}
		}
	}
	return err
}
