#include "volume/space_graph.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>

namespace fdbnbd::volume {

namespace {

using Layers = std::map<LayerId, LayerRecord>;
using Children = std::map<LayerId, std::vector<LayerId>>;

// What is deleting is gone, and so is what is unnamed without a child, and what then is.
void drop_what_goes(Layers& layers, Children& children) {
  std::erase_if(layers, [](const auto& one) { return one.second.state == LayerState::deleting; });
  for (const auto& [id, record] : layers) {
    if (record.parent.value != 0) children[record.parent].push_back(id);
  }
  std::vector<LayerId> childless;
  for (const auto& [id, record] : layers) {
    if (record.state == LayerState::unnamed && !children.contains(id)) childless.push_back(id);
  }
  while (!childless.empty()) {
    const LayerId id = childless.back();
    childless.pop_back();
    const LayerId parent = layers.at(id).parent;
    layers.erase(id);
    const auto siblings = children.find(parent);
    if (siblings == children.end()) continue;
    std::erase(siblings->second, id);
    if (!siblings->second.empty()) continue;
    children.erase(siblings);
    const auto above = layers.find(parent);
    if (above != layers.end() && above->second.state == LayerState::unnamed) childless.push_back(parent);
  }
}

class Builder {
 public:
  Builder(const Layers& layers, const Children& children) : layers_(layers), children_(children) {}

  // The node of the layer and of all below it.
  Result<size_t> add_chain(LayerId top) {
    std::vector<LayerId> chain;
    std::set<LayerId> seen;
    std::optional<size_t> below;
    for (LayerId at = top; at.value != 0;) {
      if (const auto known = graph_.node_of.find(at); known != graph_.node_of.end()) {
        below = known->second;
        break;
      }
      const auto record = layers_.find(at);
      if (record == layers_.end())
        return fail(Errc::corruption, fmt::format("layer {:016x} is missing", at.value));
      if (!seen.insert(at).second) return fail(Errc::corruption, "the layers form a circle");
      chain.push_back(at);
      at = record->second.parent;
    }
    for (size_t end = chain.size(); end > 0;) {
      // From the bottom up: unnamed layers with one child are a part of the node above them.
      size_t begin = end - 1;
      while (begin > 0 && is_merged_up(chain[begin])) --begin;
      below = add_node(
          {chain.begin() + static_cast<ptrdiff_t>(begin), chain.begin() + static_cast<ptrdiff_t>(end)},
          below);
      end = begin;
    }
    return *below;
  }

  SpaceGraph take() { return std::move(graph_); }
  SpaceGraph& graph() { return graph_; }

 private:
  bool is_merged_up(LayerId id) const {
    if (layers_.at(id).state != LayerState::unnamed) return false;
    const auto children = children_.find(id);
    return children != children_.end() && children->second.size() == 1;
  }

  size_t add_node(std::vector<LayerId> members, std::optional<size_t> parent) {
    const size_t index = graph_.nodes.size();
    SpaceNode node;
    node.members = std::move(members);
    node.is_named = layers_.at(node.members.front()).state == LayerState::live;
    node.parent = parent;
    if (parent) graph_.nodes[*parent].children.push_back(index);
    for (const LayerId id : node.members) graph_.node_of[id] = index;
    graph_.nodes.push_back(std::move(node));
    return index;
  }

  const Layers& layers_;
  const Children& children_;
  SpaceGraph graph_;
};

}  // namespace

Result<SpaceGraph> build_space_graph(const std::map<LayerId, LayerRecord>& layers,
                                     const std::vector<LayerId>& tops) {
  Layers kept = layers;
  Children children;
  drop_what_goes(kept, children);
  Builder builder(kept, children);
  for (const LayerId top : tops) RETURN_IF_ERROR(builder.add_chain(top));
  for (SpaceNode& node : builder.graph().nodes) node.is_measured = true;
  // Their other children, each with what will be merged into it: found from the leaf down.
  const size_t measured_count = builder.graph().nodes.size();
  for (size_t i = 0; i < measured_count; ++i) {
    const LayerId top = builder.graph().nodes[i].members.front();
    const auto found = children.find(top);
    if (found == children.end()) continue;
    for (LayerId child : found->second) {
      if (builder.graph().node_of.contains(child)) continue;
      for (auto above = children.find(child); kept.at(child).state == LayerState::unnamed &&
                                              above != children.end() && above->second.size() == 1;
           above = children.find(child)) {
        child = above->second.front();
      }
      RETURN_IF_ERROR(builder.add_chain(child));
    }
  }
  return builder.take();
}

}  // namespace fdbnbd::volume
