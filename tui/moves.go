package tui

import tea "charm.land/bubbletea/v2"

// page is how many rows pgup and pgdown move by.
func (m *Model) page() int { return max(m.height/2, 1) }

func (m *Model) move(by int) tea.Cmd {
	m.view().move(by)
	if m.level == devices {
		m.queues.chosen, m.queues.at = -1, 0
		m.tags.chosen, m.tags.at = -1, 0
		return m.refresh()
	}
	if m.level == queues {
		m.setTags()
	}
	return m.look()
}

// sort changes the order of the rows. The selection stays with its thing.
func (m *Model) sort(how func(rowList)) tea.Cmd {
	how(m.view())
	return m.look()
}

// open goes in by one level.
func (m *Model) open() tea.Cmd {
	switch {
	case m.level == devices && m.devices.selected() != nil:
		m.level = queues
	case m.level == queues && m.queues.selected() != nil:
		m.level = tags
		m.tags.chosen, m.tags.at = -1, 0
		m.setTags()
	}
	return m.look()
}

// back goes out by one level; from the outermost it ends what hides devices.
func (m *Model) back() tea.Cmd {
	if m.level > devices {
		m.level--
	} else {
		m.filter, m.hideIdle = "", false
	}
	return m.refresh()
}

// pause freezes what is shown, or goes on.
func (m *Model) pause() tea.Cmd {
	m.paused = !m.paused
	if m.paused {
		return nil
	}
	return tea.Batch(m.sample(), m.tick())
}

func (m *Model) toggleIdle() tea.Cmd {
	if m.level != devices {
		return nil
	}
	m.hideIdle = !m.hideIdle
	return m.refresh()
}
