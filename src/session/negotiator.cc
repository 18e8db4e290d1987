#include "session/negotiator.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "base/text.h"
#include "proto/errno_map.h"

namespace fdbnbd::session {

using proto::Option;
using proto::OptionReply;

namespace {

constexpr size_t kMaxRefusalTextBytes = 1024;
static_assert(kMaxRefusalTextBytes < limits::kMaxStringBytes);

constexpr size_t kMaxListEntryBytes =
    proto::kOptionReplyHeaderBytes + proto::kServerHeaderBytes + 2 * size_t{limits::kMaxStringBytes};
static_assert(kMaxListEntryBytes + proto::kOptionReplyHeaderBytes <= limits::kMaxHandshakeOutputBytes);

// With the acknowledgement behind it.
constexpr size_t kMaxContextReplyBytes =
    2 * proto::kOptionReplyHeaderBytes + proto::kMetaContextHeaderBytes + size_t{limits::kMaxStringBytes};

// The metadata contexts that a client can select on an export.
std::vector<SelectedContext> contexts_of_export(const block::ExportInfo& info) {
  using Kind = block::StatusTopic::Kind;
  std::vector<SelectedContext> contexts;
  contexts.push_back({.id = 0, .name = "base:allocation", .topic = std::nullopt});
  if (info.has_depth) {
    contexts.push_back({.id = 0,
                        .name = "qemu:allocation-depth",
                        .topic = block::StatusTopic{.kind = Kind::depth, .snapshot = ""}});
  }
  for (const std::string& snapshot : info.snapshots) {
    contexts.push_back({.id = 0,
                        .name = "fdb-nbd:changed-since/" + snapshot,
                        .topic = block::StatusTopic{.kind = Kind::changed_since, .snapshot = snapshot}});
  }
  return contexts;
}

template <size_t N>
std::span<std::byte, N> fixed(std::byte* to) {
  return std::span<std::byte, N>(to, N);
}

template <size_t N>
std::span<const std::byte, N> fixed(const std::string& from) {
  ASSERT(from.size() == N);
  return std::span<const std::byte, N>(reinterpret_cast<const std::byte*>(from.data()), N);
}

void copy_text(std::byte* to, std::string_view text) {
  if (!text.empty()) std::memcpy(to, text.data(), text.size());
}

// What a client may read of a failure: what it can act on, and nothing about our disks and files.
std::string public_text(const Error& error) {
  switch (error.code) {
    case Errc::not_found:
    case Errc::invalid:
    case Errc::too_large:
    case Errc::busy:
    case Errc::permission:
    case Errc::cancelled:
      return error.what;
    default:
      return "the export is not available: " + std::string(errc_name(error.code));
  }
}

}  // namespace

Negotiator::Negotiator(TlsPolicy tls) : tls_policy_(tls) {
  proto::encode_greeting(fixed<proto::kGreetingBytes>(append(proto::kGreetingBytes)));
}

size_t Negotiator::feed(ByteView bytes) {
  size_t consumed = 0;
  while (step_ == Step::input && output_.empty() && consumed < bytes.size()) {
    const ByteView rest = bytes.subspan(consumed);
    if (phase_ == Phase::skip_payload) {
      const size_t count = std::min<size_t>(rest.size(), skip_bytes_);
      consumed += count;
      skip_bytes_ -= static_cast<uint32_t>(count);
      if (skip_bytes_ == 0) handle_skipped();
      continue;
    }
    const size_t count = std::min(rest.size(), wanted_bytes_ - collected_.size());
    collected_.append(as_text(rest.first(count)));
    consumed += count;
    if (collected_.size() < wanted_bytes_) continue;
    switch (phase_) {
      case Phase::client_flags:
        handle_client_flags();
        break;
      case Phase::option_header:
        handle_option_header();
        break;
      case Phase::option_payload:
        handle_payload();
        break;
      case Phase::skip_payload:
      case Phase::done:
        ASSERT(false);
    }
  }
  return consumed;
}

std::string Negotiator::take_output() {
  std::string output = std::exchange(output_, {});
  if (is_listing_) refill_from_listing();
  return output;
}

void Negotiator::handle_client_flags() {
  const auto flags = proto::decode_client_flags(fixed<proto::kClientFlagsBytes>(collected_));
  if (!flags) return close(Errc::protocol, "client flags that were not offered");
  client_flags_ = *flags;
  next_option();
}

void Negotiator::handle_option_header() {
  const auto header = proto::decode_option_header(fixed<proto::kOptionHeaderBytes>(collected_));
  if (!header) return close(Errc::protocol, "no option where one was due");
  option_ = *header;
  options_bytes_ += proto::kOptionHeaderBytes + uint64_t{option_.payload_bytes};
  if (++options_count_ > limits::kMaxOptionsPerHandshake) return close(Errc::protocol, "too many options");
  if (option_.payload_bytes > limits::kMaxSkippedOptionBytes)
    return close(Errc::protocol, "an option of " + std::to_string(option_.payload_bytes) + " bytes");
  if (options_bytes_ > limits::kMaxHandshakeBytes)
    return close(Errc::protocol, "too many bytes of options in one handshake");
  if (!client_flags_.fixed_newstyle && option_.option != Option::export_name)
    return close(Errc::protocol, "an option that needs the fixed newstyle handshake");

  if (option_.option == Option::abort) return skip_payload(AfterSkip::abort);
  if (tls_policy_ == TlsPolicy::required && !tls_active_ && option_.option != Option::starttls) {
    if (option_.option == Option::export_name)
      return close(Errc::permission, "TLS is required, and the client did not start it");
    return refuse_after_payload(OptionReply::err_tls_reqd, "TLS is required");
  }
  const bool has_payload = option_.payload_bytes != 0;
  switch (option_.option) {
    case Option::export_name:
      if (option_.payload_bytes > limits::kMaxStringBytes)
        return close(Errc::invalid, "an export name of " + std::to_string(option_.payload_bytes) + " bytes");
      phase_ = Phase::option_payload;
      break;
    case Option::info:
    case Option::go:
      if (option_.payload_bytes > proto::kMaxInfoRequestBytes)
        return refuse_after_payload(OptionReply::err_invalid, "the option is longer than any valid one");
      phase_ = Phase::option_payload;
      break;
    case Option::set_meta_context:
      contexts_.clear();  // whatever becomes of this one
      [[fallthrough]];
    case Option::list_meta_context:
      if (option_.payload_bytes > limits::kMaxOptionBytes)
        return refuse_after_payload(OptionReply::err_too_big, "too many metadata queries");
      phase_ = Phase::option_payload;
      break;
    case Option::list:
      if (has_payload) return refuse_after_payload(OptionReply::err_invalid, "LIST has no data");
      return skip_payload(AfterSkip::list);
    case Option::structured_reply:
      if (has_payload) return refuse_after_payload(OptionReply::err_invalid, "STRUCTURED_REPLY has no data");
      return skip_payload(AfterSkip::structured_reply);
    case Option::starttls:
      if (tls_policy_ == TlsPolicy::off)
        return refuse_after_payload(OptionReply::err_unsup, "this server does not offer TLS");
      if (tls_active_) return refuse_after_payload(OptionReply::err_invalid, "TLS is in use already");
      if (has_payload) return refuse_after_payload(OptionReply::err_invalid, "STARTTLS has no data");
      return skip_payload(AfterSkip::start_tls);
    case Option::abort:
    case Option::peek_export:
    case Option::extended_headers:
    default:
      return refuse_after_payload(OptionReply::err_unsup, "the option is not supported");
  }
  collected_.clear();
  wanted_bytes_ = option_.payload_bytes;
  if (wanted_bytes_ == 0) handle_payload();
}

// All of a payload that is looked at is there.
void Negotiator::handle_payload() {
  switch (option_.option) {
    case Option::export_name:
      return handle_export_name();
    case Option::info:
    case Option::go:
      return handle_info_or_go();
    case Option::list_meta_context:
    case Option::set_meta_context:
      return handle_meta_context();
    default:
      ASSERT(false);
  }
}

void Negotiator::handle_skipped() {
  switch (after_skip_) {
    case AfterSkip::refuse:
      append_error(refusal_.type, refusal_.text);
      return next_option();
    case AfterSkip::abort:
      append_reply(OptionReply::ack, 0);
      return close(Errc::peer_gone, "the client aborted the handshake");
    case AfterSkip::list:
      return ask(ListQuery{});
    case AfterSkip::structured_reply:
      structured_replies_ = true;
      append_reply(OptionReply::ack, 0);
      return next_option();
    case AfterSkip::start_tls:
      append_reply(OptionReply::ack, 0);
      phase_ = Phase::done;
      step_ = Step::start_tls;
      return;
  }
}

void Negotiator::handle_export_name() {
  const auto name = proto::decode_export_name(payload());
  if (!name) return close(Errc::invalid, name.error().what);
  ask(OpenQuery{std::string(*name)});
}

void Negotiator::handle_info_or_go() {
  const auto request = proto::decode_info_request(payload());
  if (!request) {
    append_error(request.error());
    return next_option();
  }
  std::string name(request->export_name);
  if (option_.option == Option::go)
    ask(OpenQuery{std::move(name)});
  else
    ask(DescribeQuery{std::move(name)});
}

void Negotiator::handle_meta_context() {
  if (option_.option == Option::set_meta_context && !structured_replies_) {
    append_error(OptionReply::err_invalid, "structured replies must be negotiated first");
    return next_option();
  }
  const auto request = proto::decode_meta_request(payload());
  if (!request) {
    append_error(request.error());
    return next_option();
  }
  ask(DescribeQuery{std::string(request->export_name)});
}

void Negotiator::on_listed(Result<std::vector<block::ExportListing>> exports) {
  ASSERT(step_ == Step::query && std::holds_alternative<ListQuery>(query_));
  if (!exports) {
    append_error(exports.error());
    return next_option();
  }
  listing_ = std::move(*exports);
  listing_index_ = 0;
  is_listing_ = true;
  next_option();
  refill_from_listing();
}

void Negotiator::refill_from_listing() {
  for (; listing_index_ < listing_.size(); ++listing_index_) {
    if (output_.size() + kMaxListEntryBytes > limits::kMaxHandshakeOutputBytes) return;
    const block::ExportListing& entry = listing_[listing_index_];
    if (entry.name.size() > limits::kMaxStringBytes) continue;  // the protocol has no way to say it
    const std::string_view description = utf8_prefix(entry.description, limits::kMaxStringBytes);
    std::byte* out =
        append_reply(OptionReply::server, proto::kServerHeaderBytes + entry.name.size() + description.size());
    proto::encode_server_header(fixed<proto::kServerHeaderBytes>(out),
                                static_cast<uint32_t>(entry.name.size()));
    out += proto::kServerHeaderBytes;
    copy_text(out, entry.name);
    copy_text(out + entry.name.size(), description);
  }
  if (output_.size() + proto::kOptionReplyHeaderBytes > limits::kMaxHandshakeOutputBytes) return;
  append_reply(OptionReply::ack, 0);
  is_listing_ = false;
  listing_ = {};
}

void Negotiator::on_described(const Result<block::ExportInfo>& info) {
  ASSERT(step_ == Step::query && std::holds_alternative<DescribeQuery>(query_));
  if (!info)
    append_error(info.error());
  else if (option_.option == Option::info)
    answer_info_or_go(*info);
  else
    answer_meta_context(*info);
  next_option();
}

void Negotiator::on_opened(const Result<block::ExportInfo>& info) {
  ASSERT(step_ == Step::query && std::holds_alternative<OpenQuery>(query_));
  const bool is_go = option_.option == Option::go;
  if (!info) {
    if (!is_go) return close(info.error().code, escaped(info.error().what, kMaxRefusalTextBytes));
    append_error(info.error());
    return next_option();
  }
  if (is_go)
    answer_info_or_go(*info);
  else
    answer_export_name(*info);
  enter_transmission(std::move(std::get<OpenQuery>(query_).export_name));
}

void Negotiator::answer_export_name(const block::ExportInfo& info) {
  proto::encode_export_name_reply(fixed<proto::kExportNameReplyBytes>(append(proto::kExportNameReplyBytes)),
                                  info.size_bytes, flags_for(info));
  if (!client_flags_.no_zeroes) output_.append(proto::kExportNamePaddingBytes, '\0');
}

void Negotiator::answer_info_or_go(const block::ExportInfo& info) {
  const auto request = proto::decode_info_request(payload());
  ASSERT(request);
  proto::encode_info_export(
      fixed<proto::kInfoExportBytes>(append_reply(OptionReply::info, proto::kInfoExportBytes)),
      info.size_bytes, flags_for(info));
  if (request->wants(proto::InfoType::name)) append_info_string(proto::InfoType::name, info.name);
  if (request->wants(proto::InfoType::description) && !info.description.empty())
    append_info_string(proto::InfoType::description, info.description);
  if (request->wants(proto::InfoType::block_size)) {
    const uint32_t max_payload_bytes =
        info.max_payload_bytes == 0 ? limits::kMaxPayloadBytes : info.max_payload_bytes;
    proto::encode_info_block_size(
        fixed<proto::kInfoBlockSizeBytes>(append_reply(OptionReply::info, proto::kInfoBlockSizeBytes)),
        {.min_bytes = info.min_block_bytes,
         .preferred_bytes = info.preferred_block_bytes,
         .max_payload_bytes = max_payload_bytes});
  }
  append_reply(OptionReply::ack, 0);
}

// A list that is longer than the output may be is cut: what is not in it can be selected all the same.
void Negotiator::answer_meta_context(const block::ExportInfo& info) {
  const auto request = proto::decode_meta_request(payload());
  ASSERT(request);
  const bool is_set = option_.option == Option::set_meta_context;
  const auto kind = is_set ? proto::MetaQueryKind::set : proto::MetaQueryKind::list;
  if (is_set) contexts_export_name_ = request->export_name;
  for (SelectedContext& context : contexts_of_export(info)) {
    const std::string& name = context.name;
    bool matches = !is_set && request->queries_count == 0;
    ByteView queries = request->queries;
    while (!matches && !queries.empty()) matches = query_matches(proto::next_query(queries), name, kind);
    if (!matches) continue;
    if (output_.size() + kMaxContextReplyBytes > limits::kMaxHandshakeOutputBytes) break;
    const uint32_t id = is_set ? static_cast<uint32_t>(contexts_.size() + 1) : 0;
    std::byte* out = append_reply(OptionReply::meta_context, proto::kMetaContextHeaderBytes + name.size());
    proto::encode_meta_context_header(fixed<proto::kMetaContextHeaderBytes>(out), id);
    copy_text(out + proto::kMetaContextHeaderBytes, name);
    context.id = id;
    if (is_set) contexts_.push_back(std::move(context));
  }
  append_reply(OptionReply::ack, 0);
}

void Negotiator::on_tls_established() {
  ASSERT(step_ == Step::start_tls);
  tls_active_ = true;
  // What came in the clear may come from somebody else than the client.
  structured_replies_ = false;
  contexts_.clear();
  contexts_export_name_.clear();
  next_option();
}

Agreement Negotiator::take_agreement() {
  ASSERT(step_ == Step::transmission);
  return std::move(agreement_);
}

void Negotiator::skip_payload(AfterSkip then) {
  after_skip_ = then;
  skip_bytes_ = option_.payload_bytes;
  phase_ = Phase::skip_payload;
  if (skip_bytes_ == 0) handle_skipped();
}

void Negotiator::refuse_after_payload(OptionReply type, const char* text) {
  refusal_ = {.type = type, .text = text};
  skip_payload(AfterSkip::refuse);
}

void Negotiator::ask(Query query) {
  query_ = std::move(query);
  step_ = Step::query;
}

void Negotiator::next_option() {
  collected_ = {};
  wanted_bytes_ = proto::kOptionHeaderBytes;
  phase_ = Phase::option_header;
  step_ = Step::input;
}

void Negotiator::enter_transmission(std::string export_name) {
  agreement_.structured_replies = structured_replies_;
  if (contexts_export_name_ == export_name) agreement_.contexts = std::move(contexts_);
  agreement_.export_name = std::move(export_name);
  collected_ = {};
  phase_ = Phase::done;
  step_ = Step::transmission;
}

void Negotiator::close(Errc code, std::string what) {
  close_reason_ = {.code = code, .what = std::move(what)};
  collected_ = {};
  phase_ = Phase::done;
  step_ = Step::closed;
}

uint16_t Negotiator::flags_for(const block::ExportInfo& info) const {
  return proto::transmission_flags({.read_only = info.read_only, .structured_replies = structured_replies_});
}

std::byte* Negotiator::append(size_t bytes_count) {
  const size_t at = output_.size();
  output_.resize(at + bytes_count);
  return reinterpret_cast<std::byte*>(output_.data() + at);
}

std::byte* Negotiator::append_reply(OptionReply type, size_t payload_bytes) {
  std::byte* out = append(proto::kOptionReplyHeaderBytes + payload_bytes);
  proto::encode_option_reply_header(fixed<proto::kOptionReplyHeaderBytes>(out), option_.option, type,
                                    static_cast<uint32_t>(payload_bytes));
  return out + proto::kOptionReplyHeaderBytes;
}

void Negotiator::append_info_string(proto::InfoType type, std::string_view text) {
  text = utf8_prefix(text, limits::kMaxStringBytes);
  std::byte* out = append_reply(OptionReply::info, proto::kInfoStringHeaderBytes + text.size());
  proto::encode_info_string_header(fixed<proto::kInfoStringHeaderBytes>(out), type);
  copy_text(out + proto::kInfoStringHeaderBytes, text);
}

void Negotiator::append_error(OptionReply type, std::string_view text) {
  copy_text(append_reply(type, text.size()), text);
}

void Negotiator::append_error(const Error& error) {
  append_error(proto::option_error_for(error.code), escaped(public_text(error), kMaxRefusalTextBytes));
}

}  // namespace fdbnbd::session
