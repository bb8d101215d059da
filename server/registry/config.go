package registry

// Config is what a configuration file can say about a registry. Flags go before it.
type Config struct {
	// S3 is the bucket that holds everything.
	S3 BucketOptions `json:"s3,omitzero"`
	// Mirrors are registries whose repositories appear here.
	Mirrors []Mirror `json:"mirrors,omitempty"`
	// Webhooks are told of changes.
	Webhooks []Webhook `json:"webhooks,omitempty"`
}

// Apply makes the configuration the options of a registry.
func (c Config) Apply(o *Options) {
	if o.Root == "" && o.Bucket.URL == "" {
		o.Bucket = c.S3
	}
	o.Mirrors = append(o.Mirrors, c.Mirrors...)
	o.Webhooks = append(o.Webhooks, c.Webhooks...)
}
