#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/assert.h"
#include "base/limits.h"
#include "session/negotiator.h"

// Drives a Negotiator the way a session does, with a registry made of plain values: for tests and fuzz
// targets.

namespace fdbnbd::session {

struct ScriptedRegistry {
  std::vector<block::ExportInfo> exports;
  std::map<std::string, Error> failures;  // of names that exist and cannot be opened; "" fails LIST

  Result<std::vector<block::ExportListing>> list() const {
    if (const auto failure = failures.find(""); failure != failures.end())
      return tl::unexpected(failure->second);
    std::vector<block::ExportListing> listing;
    listing.reserve(exports.size());
    for (const block::ExportInfo& info : exports)
      listing.push_back({.name = info.name, .description = info.description});
    return listing;
  }

  Result<block::ExportInfo> find(const std::string& name) const {
    if (const auto failure = failures.find(name); !name.empty() && failure != failures.end())
      return tl::unexpected(failure->second);
    if (name.empty() && exports.size() == 1) return exports.front();
    for (const block::ExportInfo& info : exports)
      if (!name.empty() && info.name == name) return info;
    return fail(Errc::not_found, "no volume \"" + name + "\"");
  }
};

// All that can be seen of a handshake.
struct Transcript {
  std::string output;
  Negotiator::Step step{};
  size_t consumed_bytes = 0;
  Agreement agreement;               // where step is transmission
  Error close_reason{Errc::io, ""};  // where step is closed
  std::vector<std::string> queries;  // "list", "describe NAME", "open NAME"
  size_t max_buffered_bytes = 0;
  size_t max_output_piece_bytes = 0;
};

class Driver {
 public:
  Driver(const ScriptedRegistry& registry, TlsPolicy tls) : registry_(registry), negotiator_(tls) {
    settle();
  }

  // One segment from the client, as it comes from the network.
  void receive(std::string_view segment) {
    unconsumed_ += segment;
    settle();
  }

  const Transcript& transcript() const { return transcript_; }

 private:
  void settle() {
    using Step = Negotiator::Step;
    for (;;) {
      note_size();
      while (negotiator_.has_output()) {
        const std::string piece = negotiator_.take_output();
        transcript_.max_output_piece_bytes = std::max(transcript_.max_output_piece_bytes, piece.size());
        transcript_.output += piece;
      }
      transcript_.step = negotiator_.step();
      switch (negotiator_.step()) {
        case Step::input: {
          const size_t consumed = negotiator_.feed(as_bytes(unconsumed_));
          unconsumed_.erase(0, consumed);
          transcript_.consumed_bytes += consumed;
          if (consumed == 0 || (unconsumed_.empty() && is_waiting())) {
            note_size();
            return;
          }
          break;
        }
        case Step::query:
          answer();
          break;
        case Step::start_tls:
          negotiator_.on_tls_established();
          break;
        case Step::transmission:
          if (!is_finished_) transcript_.agreement = negotiator_.take_agreement();
          is_finished_ = true;
          return;
        case Step::closed:
          transcript_.close_reason = negotiator_.close_reason();
          return;
      }
    }
  }

  bool is_waiting() const {
    return negotiator_.step() == Negotiator::Step::input && !negotiator_.has_output();
  }

  void note_size() {
    transcript_.max_buffered_bytes = std::max(transcript_.max_buffered_bytes, negotiator_.buffered_bytes());
  }

  void answer() {
    const Query query = negotiator_.query();
    if (std::holds_alternative<ListQuery>(query)) {
      transcript_.queries.emplace_back("list");
      negotiator_.on_listed(registry_.list());
    } else if (const auto* describe = std::get_if<DescribeQuery>(&query)) {
      transcript_.queries.push_back("describe " + describe->export_name);
      negotiator_.on_described(registry_.find(describe->export_name));
    } else {
      const std::string& name = std::get<OpenQuery>(query).export_name;
      transcript_.queries.push_back("open " + name);
      negotiator_.on_opened(registry_.find(name));
    }
  }

  const ScriptedRegistry& registry_;
  Negotiator negotiator_;
  std::string unconsumed_;
  Transcript transcript_;
  bool is_finished_ = false;
};

// The whole of `input` in segments of segment_bytes(); each call gives the length of the next one, from 1.
inline Transcript drive(const ScriptedRegistry& registry, TlsPolicy tls, std::string_view input,
                        const std::function<size_t()>& segment_bytes) {
  Driver driver(registry, tls);
  while (!input.empty()) {
    const size_t count = std::min(segment_bytes(), input.size());
    ASSERT(count > 0);
    driver.receive(input.substr(0, count));
    input.remove_prefix(count);
  }
  return driver.transcript();
}

// What must hold after any input whatever; aborts where it does not.
inline void check_bounds(const Transcript& transcript) {
  ASSERT(transcript.max_output_piece_bytes <= limits::kMaxHandshakeOutputBytes);
  ASSERT(transcript.max_buffered_bytes <= limits::kMaxOptionBytes + limits::kMaxHandshakeOutputBytes);
  ASSERT(transcript.output.starts_with("NBDMAGICIHAVEOPT"));
}

// Two drives of the same input must not differ in anything a client or the session sees.
inline bool is_same(const Transcript& a, const Transcript& b) {
  return a.output == b.output && a.step == b.step && a.consumed_bytes == b.consumed_bytes &&
         a.agreement == b.agreement && a.close_reason == b.close_reason && a.queries == b.queries;
}

}  // namespace fdbnbd::session
