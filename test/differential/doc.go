// Package differential compares images that teu builds with those that a real BuildKit makes
// of the same Dockerfile. It holds tests only.
//
// The corpus is testdata/*.txtar, a subject each. A case is a directory in it:
//
//	CASE/Dockerfile
//	CASE/...         the context
//	CASE/setup.sh    optional: run in the context first, for what a text cannot say
//	CASE/flags       optional: one flag of `teu build` a line
//	CASE/context     optional: a URL, which is the context instead of the directory
//	CASE/error       optional: both must fail, teu with this text in its message
//
// In Dockerfile, flags and setup.sh the word REGISTRY/ is the address of a registry with the base
// images (testdata/bases), HTTP that of a server which has the files below CASE/www, and GIT that of
// a server with the repositories that setup.sh makes below www.
package differential
