#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "block/export.h"
#include "proto/handshake.h"
#include "proto/option.h"

// The server's side of the newstyle handshake, without I/O (NBD proto, "Newstyle negotiation").

namespace fdbnbd::session {

enum class TlsPolicy {
  off,       // NOTLS: there is no TLS
  offered,   // the client may upgrade
  required,  // FORCEDTLS: nothing but STARTTLS and ABORT before the upgrade
};

struct SelectedContext {
  uint32_t id = 0;  // as BLOCK_STATUS chunks carry it; unique in a handshake
  std::string name;
  std::optional<block::StatusTopic> topic = {};  // base:allocation where there is none

  friend bool operator==(const SelectedContext&, const SelectedContext&) = default;
};

// What a finished handshake has agreed on.
struct Agreement {
  std::string export_name;  // as the client wrote it
  bool structured_replies = false;
  std::vector<SelectedContext> contexts;  // metadata contexts for BLOCK_STATUS

  friend bool operator==(const Agreement&, const Agreement&) = default;
};

// Questions to the export registry. Each is answered with the call beside it.
struct ListQuery {};    // on_listed
struct DescribeQuery {  // on_described
  std::string export_name;
};
struct OpenQuery {  // on_opened; the session keeps the Export open from then on
  std::string export_name;
};
using Query = std::variant<ListQuery, DescribeQuery, OpenQuery>;

// A state machine: bytes of the client go in, bytes for the client come out, and step() says what it waits
// for. It buffers at most one option (limits::kMaxOptionBytes) and hands out its output in bounded pieces.
// The result does not depend on how the client's bytes are cut.
//
//   for (;;) {
//     send(take_output()) while it is not empty
//     switch (step()) {
//       input:        receive some, feed() them; keep what it did not consume and feed that first next time
//       query:        ask the registry what query() says, call on_...()
//       start_tls:    close if there is anything unconsumed, else do the TLS handshake, on_tls_established()
//       transmission: take_agreement(); unconsumed bytes are the first requests
//       closed:       close the connection; close_reason() is for the log
//     }
//   }
//
// Not thread-safe. The deadline and the end of the stream are the session's matter; it can be destroyed at
// any moment.
class Negotiator {
 public:
  enum class Step { input, query, start_tls, transmission, closed };

  // The greeting is the first output.
  explicit Negotiator(TlsPolicy tls);

  Step step() const { return step_; }

  // Consumes bytes until it needs something else than input; returns how many. 0 unless step() is input and
  // there is no output to take.
  size_t feed(ByteView bytes);

  // Bytes for the client, in order; at most limits::kMaxHandshakeOutputBytes. Empty when there are none for
  // now. After step() became closed or transmission they must still be sent.
  std::string take_output();
  bool has_output() const { return !output_.empty(); }

  // Bytes it holds at the moment: of the option at hand and of output not taken.
  size_t buffered_bytes() const { return collected_.size() + output_.size(); }

  // While step() is query. The registry's answer continues the handshake; an error becomes a refusal of the
  // option (or the end, for EXPORT_NAME).
  const Query& query() const { return query_; }
  void on_listed(Result<std::vector<block::ExportListing>> exports);
  void on_described(const Result<block::ExportInfo>& info);
  void on_opened(const Result<block::ExportInfo>& info);

  // While step() is start_tls: the connection is encrypted now. Everything negotiated so far is forgotten.
  void on_tls_established();

  // Once, when step() is transmission.
  Agreement take_agreement();

  // When step() is closed. Errc::peer_gone: the client sent ABORT. Errc::protocol: it broke the protocol or a
  // bound. Else the error that made EXPORT_NAME impossible. The text is escaped.
  const Error& close_reason() const { return close_reason_; }

 private:
  enum class Phase { client_flags, option_header, option_payload, skip_payload, done };
  // What to do once a payload that nobody looks at has gone by.
  enum class AfterSkip { refuse, abort, list, structured_reply, start_tls };
  struct Refusal {
    proto::OptionReply type{};
    const char* text = "";
  };

  void handle_client_flags();
  void handle_option_header();
  void handle_skipped();
  void handle_export_name();
  void handle_info_or_go();
  void handle_meta_context();
  void answer_export_name(const block::ExportInfo& info);
  void answer_info_or_go(const block::ExportInfo& info);
  void answer_meta_context(const block::ExportInfo& info);
  void refill_from_listing();

  void handle_payload();
  void skip_payload(AfterSkip then);
  void refuse_after_payload(proto::OptionReply type, const char* text);
  void ask(Query query);
  void next_option();
  void enter_transmission(std::string export_name);
  void close(Errc code, std::string what);
  uint16_t flags_for(const block::ExportInfo& info) const;
  ByteView payload() const { return as_bytes(collected_); }

  // Grow the output; the memory is valid until the next of these calls.
  std::byte* append(size_t bytes_count);
  std::byte* append_reply(proto::OptionReply type, size_t payload_bytes);
  void append_info_string(proto::InfoType type, std::string_view text);
  void append_error(proto::OptionReply type, std::string_view text);
  void append_error(const Error& error);

  const TlsPolicy tls_policy_;
  bool tls_active_ = false;

  Step step_ = Step::input;
  Phase phase_ = Phase::client_flags;
  std::string collected_;  // the bytes of this phase, up to wanted_bytes_
  size_t wanted_bytes_ = proto::kClientFlagsBytes;
  uint32_t skip_bytes_ = 0;  // of a payload, still to come
  AfterSkip after_skip_ = AfterSkip::refuse;
  Refusal refusal_;
  proto::OptionHeader option_;  // the one at hand
  uint32_t options_count_ = 0;
  uint64_t options_bytes_ = 0;  // all payloads and headers so far, as claimed

  proto::ClientFlags client_flags_;
  bool structured_replies_ = false;
  std::string contexts_export_name_;  // that contexts_ were selected for
  std::vector<SelectedContext> contexts_;

  Query query_;
  bool is_listing_ = false;  // a LIST is being answered
  std::vector<block::ExportListing> listing_;
  size_t listing_index_ = 0;  // of the first export that is not in the output yet

  std::string output_;
  Agreement agreement_;
  Error close_reason_{Errc::protocol, ""};
};

}  // namespace fdbnbd::session
