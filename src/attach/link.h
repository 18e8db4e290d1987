#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "net/endpoint.h"
#include "net/fd.h"
#include "proto/client_handshake.h"

// Connections to servers, up to where the kernel takes over. Blocking; one thread.

namespace fdbnbd::attach {

// A way to a server.
class Connector {
 public:
  virtual ~Connector() = default;

  // A connected blocking socket on which the server is about to greet, whose calls give up after
  // limits::kServerPatience. Errc::differs: what is there now is another volume of the same name.
  virtual Result<net::OwnedFd> connect() = 0;

  // For messages: "tcp://127.0.0.1:10809".
  virtual std::string name() const = 0;
};

std::unique_ptr<Connector> make_connector(const net::Endpoint& endpoint);

// A connection past the handshake, in transmission, without time limits.
struct Link {
  net::OwnedFd socket;
  proto::ExportTerms terms;
};

// The handshake on `socket`: NBD_OPT_GO, or NBD_OPT_INFO and good-bye. Errors: the server's refusal
// (not_found, busy, permission, not_supported, invalid), protocol, peer_gone, timeout.
Result<proto::ExportTerms> negotiate(int socket, std::string_view export_name, proto::Option option);

// The servers that have one export. Where there are several, one of them serves it; who answered last is
// asked first.
class Servers {
 public:
  // At least one connector.
  Servers(std::vector<std::unique_ptr<Connector>> connectors, std::string export_name);
  virtual ~Servers() = default;

  // A connection in transmission to the first server that agrees. Otherwise the error of the one that was
  // asked first.
  virtual Result<Link> open();

  // What the server says of the export now.
  virtual Result<proto::ExportTerms> look();

  const std::string& export_name() const { return export_name_; }
  // Who answered last, for messages.
  std::string current_name() const { return connectors_[current_index_]->name(); }

 private:
  Result<Link> ask(Connector& connector, proto::Option option) const;
  Result<Link> ask_all(proto::Option option);

  const std::vector<std::unique_ptr<Connector>> connectors_;
  const std::string export_name_;
  size_t current_index_ = 0;
};

}  // namespace fdbnbd::attach
