package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

const maxSearch = 8 << 20 // bytes of an answer

// SearchResult is a repository that a search found.
type SearchResult struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	StarCount   int    `json:"star_count"`
	IsOfficial  bool   `json:"is_official"`
	IsAutomated bool   `json:"is_automated"`
}

// Search looks for repositories by the v1 search of Docker Hub, or of the registry that term begins
// with ("quay.io/etcd"), and returns at most limit (1 to 100, 0 for 25). Names and descriptions are cleaned of
// what a terminal would obey.
func (c *Client) Search(ctx context.Context, term string, limit int) ([]SearchResult, error) {
	if limit == 0 {
		limit = 25
	}
	if limit < 1 || limit > 100 {
		return nil, fmt.Errorf("limit %d is outside the range of [1, 100]: %w", limit, errdefs.ErrInvalidArgument)
	}
	if strings.Contains(term, "://") {
		return nil, fmt.Errorf("invalid term %q: it has no scheme: %w", term, errdefs.ErrInvalidArgument)
	}
	h := c.hostAt(hubDomain, hubAuth, false) // anybody may search
	if domain, rest, ok := strings.Cut(term, "/"); ok && (strings.ContainsAny(domain, ".:") || domain == "localhost") {
		if term = rest; Domain(domain) != hubDomain {
			h = c.host(domain)
		}
	}
	resp, err := h.do(ctx, request{method: http.MethodGet, path: "/v1/search", query: url.Values{"q": {term}, "n": {strconv.Itoa(limit)}}})
	if err != nil {
		return nil, fmt.Errorf("searching for %q: %w", term, err)
	}
	defer resp.Body.Close()
	body, err := readLimited(resp.Body, maxSearch)
	if err != nil {
		return nil, fmt.Errorf("searching for %q: %w", term, err)
	}
	var doc struct {
		Results []SearchResult `json:"results"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("searching for %q: %s answered no search results: %w: %w", term, h.name, errdefs.ErrUnavailable, err)
	}
	results := doc.Results[:min(len(doc.Results), limit)]
	for i := range results {
		results[i].Name, results[i].Description = printable(results[i].Name), printable(results[i].Description)
	}
	return results, nil
}
