"""For a scan's own archive: structured report, secondary capture and lung mask, in the patient's study."""
