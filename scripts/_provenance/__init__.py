"""What every attempt of a job and every call of Snakemake leave behind: records, and who made what from what."""
