#include "attach/link.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "base/text.h"
#include "net/dial.h"

namespace fdbnbd::attach {

namespace {

using proto::Option;
using proto::OptionReply;

constexpr size_t kMaxRefusalBytes = 300;  // of the server's text, in a message

class EndpointConnector final : public Connector {
 public:
  explicit EndpointConnector(net::Endpoint endpoint) : endpoint_(std::move(endpoint)) {}

  Result<net::OwnedFd> connect() override { return net::dial(endpoint_, limits::kServerPatience); }
  std::string name() const override { return net::to_string(endpoint_); }

 private:
  const net::Endpoint endpoint_;
};

Error receive_error(ssize_t count, int code) {
  if (count == 0 || code == ECONNRESET || code == EPIPE)
    return {Errc::peer_gone, "the server closed the connection during the handshake"};
  if (code == EAGAIN) return {Errc::timeout, "the server does not answer"};
  return {Errc::io, "the connection failed: " + std::generic_category().message(code)};
}

Result<void> receive(int socket, MutableByteView into) {
  while (!into.empty()) {
    const ssize_t count = ::recv(socket, into.data(), into.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return tl::unexpected(receive_error(count, errno));
    into = into.subspan(static_cast<size_t>(count));
  }
  return {};
}

Result<void> send(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return tl::unexpected(receive_error(count, errno));
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return {};
}

Errc refusal_code(OptionReply type) {
  switch (type) {
    case OptionReply::err_unknown:
      return Errc::not_found;
    case OptionReply::err_policy:
    case OptionReply::err_tls_reqd:
      return Errc::permission;
    case OptionReply::err_shutdown:
      return Errc::unavailable;
    case OptionReply::err_unsup:
      return Errc::not_supported;
    default:
      return Errc::io;
  }
}

struct OptionAnswer {
  proto::OptionReplyHeader header;
  std::string payload;
};

Result<OptionAnswer> receive_answer(int socket, Option option) {
  std::array<std::byte, proto::kOptionReplyHeaderBytes> bytes{};
  RETURN_IF_ERROR(receive(socket, bytes));
  const auto header = proto::decode_option_reply_header(bytes);
  if (!header || header->option != option || header->payload_bytes > limits::kMaxOptionBytes)
    return fail(Errc::protocol, "the server's answer is no option reply");
  OptionAnswer answer{.header = *header, .payload = std::string(header->payload_bytes, '\0')};
  RETURN_IF_ERROR(receive(socket, std::as_writable_bytes(std::span(answer.payload))));
  return answer;
}

Result<proto::ExportTerms> ask_for_export(int socket, std::string_view export_name, Option option) {
  RETURN_IF_ERROR(send(socket, proto::encode_info_option(option, export_name)));
  std::optional<proto::ExportTerms> terms;
  for (uint32_t i = 0; i < limits::kMaxHandshakeReplies; ++i) {
    ASSIGN_OR_RETURN(const OptionAnswer answer, receive_answer(socket, option));
    if (answer.header.is_error()) {
      return fail(refusal_code(answer.header.type), fmt::format("the server refuses \"{}\": {}", export_name,
                                                                escaped(answer.payload, kMaxRefusalBytes)));
    }
    if (answer.header.type == OptionReply::info) {
      if (const auto info = proto::decode_info_export(as_bytes(answer.payload))) terms = info;
    } else if (answer.header.type == OptionReply::ack) {
      if (!terms) return fail(Errc::protocol, "the server does not tell the size of the export");
      return *terms;
    }
  }
  return fail(Errc::protocol, "the server does not come to an end with what it tells");
}

}  // namespace

std::unique_ptr<Connector> make_connector(const net::Endpoint& endpoint) {
  return std::make_unique<EndpointConnector>(endpoint);
}

Result<proto::ExportTerms> negotiate(int socket, std::string_view export_name, Option option) {
  std::array<std::byte, proto::kGreetingBytes> bytes{};
  RETURN_IF_ERROR(receive(socket, bytes));
  const auto greeting = proto::decode_greeting(bytes);
  if (!greeting || !greeting->fixed_newstyle)
    return fail(Errc::protocol, "the server does not greet as fixed newstyle NBD");
  RETURN_IF_ERROR(send(socket, proto::encode_client_flags(*greeting)));
  auto terms = ask_for_export(socket, export_name, option);
  // A server that is gone by now needs no good-bye.
  if (terms && option == Option::info) (void)send(socket, proto::encode_option(Option::abort));
  return terms;
}

Servers::Servers(std::vector<std::unique_ptr<Connector>> connectors, std::string export_name)
    : connectors_(std::move(connectors)), export_name_(std::move(export_name)) {
  ASSERT(!connectors_.empty());
}

Result<Link> Servers::open() {
  ASSIGN_OR_RETURN(Link link, ask_all(Option::go));
  net::set_patience(link.socket.get(), Duration::zero());
  return link;
}

Result<proto::ExportTerms> Servers::look() {
  ASSIGN_OR_RETURN(const Link link, ask(*connectors_[current_index_], Option::info));
  return link.terms;
}

Result<Link> Servers::ask(Connector& connector, Option option) const {
  Link link;
  ASSIGN_OR_RETURN(link.socket, connector.connect());
  auto terms = negotiate(link.socket.get(), export_name_, option);
  if (!terms) return fail(terms.error().code, fmt::format("{}: {}", connector.name(), terms.error().what));
  link.terms = *terms;
  return link;
}

Result<Link> Servers::ask_all(Option option) {
  std::optional<Error> first_error;
  for (size_t i = 0; i < connectors_.size(); ++i) {
    const size_t index = (current_index_ + i) % connectors_.size();
    auto link = ask(*connectors_[index], option);
    if (link) {
      current_index_ = index;
      return link;
    }
    if (!first_error) first_error = std::move(link.error());
  }
  return tl::unexpected(std::move(*first_error));
}

}  // namespace fdbnbd::attach
