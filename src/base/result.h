#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace fdbnbd {

// What a caller can do about a failure; each value has one meaning for the retry loops, one NBD errno
// (proto/errno_map.h) and one exit status (cli/exit_status.h).
enum class Errc {
  // Try again: nothing happened.
  conflict,     // a transaction lost against another one
  unavailable,  // the store cannot be reached at the moment
  // The outcome is not known: the change may or may not have happened, or may happen later.
  unknown_result,
  // Tell the caller.
  invalid,        // the request makes no sense (bad argument, out of range)
  past_end,       // a write beyond the end of the volume
  not_supported,  // this operation is not offered here
  too_large,      // the request is larger than a bound
  read_only,      // a change to something that cannot be changed
  no_space,       // the disk or the quota is full
  not_found,      // no such volume, snapshot, file
  exists,         // there is one already
  busy,           // somebody else holds it
  permission,     // the operating system or the access rules say no
  differs,        // a comparison found a difference
  io,             // the store or the operating system failed
  // The connection cannot go on.
  protocol,   // the peer broke the protocol
  peer_gone,  // the peer closed or reset the connection
  timeout,    // the peer was too slow
  cancelled,  // we are stopping
  // The volume cannot go on.
  fenced,      // another server owns the volume now
  corruption,  // stored data does not match its checksum or its format
  // Stored by a newer version of this program.
  newer_format,
};

// The name of the value, for logs and JSON ("not_found").
std::string_view errc_name(Errc code);

struct Error {
  Errc code;
  // One line for a person: what failed, on which object, what to do next. No trailing period or newline.
  std::string what;

  friend bool operator==(const Error&, const Error&) = default;
};

template <typename T>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(Errc code, std::string what) {
  return tl::unexpected(Error{code, std::move(what)});
}

// The error of a failed result, to be returned from a function with another value type.
template <typename T>
tl::unexpected<Error> propagate(Result<T>& failed) {
  return tl::unexpected(std::move(failed.error()));
}

}  // namespace fdbnbd

#define FDBNBD_CONCAT_INNER(a, b) a##b
#define FDBNBD_CONCAT(a, b) FDBNBD_CONCAT_INNER(a, b)

// NOLINTBEGIN(bugprone-macro-parentheses): declarations and expressions that must not be parenthesised

// `expression` is a Result<void> or Result<T> whose value is not needed: on failure return it.
#define RETURN_IF_ERROR(expression)                                                            \
  if (auto FDBNBD_CONCAT(result_, __LINE__) = (expression); !FDBNBD_CONCAT(result_, __LINE__)) \
  return ::fdbnbd::propagate(FDBNBD_CONCAT(result_, __LINE__))

// ASSIGN_OR_RETURN(auto x, f()): declares x with the value of f(), or returns its error.
#define ASSIGN_OR_RETURN(declaration, expression)                                                      \
  auto FDBNBD_CONCAT(result_, __LINE__) = (expression);                                                \
  if (!FDBNBD_CONCAT(result_, __LINE__)) return ::fdbnbd::propagate(FDBNBD_CONCAT(result_, __LINE__)); \
  declaration = std::move(*FDBNBD_CONCAT(result_, __LINE__))

// The same in a coroutine that returns Task<Result<...>>.
#define CO_RETURN_IF_ERROR(expression)                                                         \
  if (auto FDBNBD_CONCAT(result_, __LINE__) = (expression); !FDBNBD_CONCAT(result_, __LINE__)) \
  co_return ::fdbnbd::propagate(FDBNBD_CONCAT(result_, __LINE__))

#define ASSIGN_OR_CO_RETURN(declaration, expression)                                                      \
  auto FDBNBD_CONCAT(result_, __LINE__) = (expression);                                                   \
  if (!FDBNBD_CONCAT(result_, __LINE__)) co_return ::fdbnbd::propagate(FDBNBD_CONCAT(result_, __LINE__)); \
  declaration = std::move(*FDBNBD_CONCAT(result_, __LINE__))

// NOLINTEND(bugprone-macro-parentheses)
